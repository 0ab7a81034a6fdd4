"""The console as people use it: a real ``junctor up`` with its demo provider, in a real Chromium, auth off."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from string import Template

import pytest

from junctor.cli import snippets
from tests.cluster import until
from tests.console.stage import Console, Junctor, chromium, junctor, looking, needs_chromium
from tests.upstream import CLOSE, Json, OpenAI, ScriptedUpstream, Sse

pytestmark = [needs_chromium, pytest.mark.long]

VIEWS = ("Chat", "Providers", "Models", "Live", "Explain", "Usage", "Keys")
QUESTION = 'It\'s "me" & <b>you</b>'


def piece(text: str) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


def told_by_the_command_line(lang: str, url: str, grpc: str) -> str:
    """``junctor snippet demo-echo-1 --stream``, from the templates that it is made of."""
    import json

    base = f"{url}/apis/inference-gateway/v2/workspaces/default/openai/-/v1"
    quoted = json.dumps(QUESTION, ensure_ascii=False)
    values = {
        "base": json.dumps(base),
        "root": json.dumps(url),
        "url": f"{base}/chat/completions",
        "grpc": json.dumps(grpc),
        "model": '"demo-echo-1"',
        "prompt": quoted,
        "shell_model": '"demo-echo-1"',
        "shell_prompt": quoted.replace("'", "'\\''"),
        "token": "not-needed",
    }
    return Template(snippets.STREAMED[lang]).substitute(values).lstrip("\n")


async def run_program(language: str, text: str, folder: Path) -> str:
    command = ["bash", "-c", text] if language == "curl" else [sys.executable, "-c", text]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_every_view_with_auth_off(tmp_path: Path) -> None:
    async with junctor(tmp_path / "junctor") as one, chromium() as browser, looking(browser, one.url) as console:
        page = console.page
        assert f"Look   {one.url}/console" in one.process.stdout
        await console.open()
        assert await page.title() == "Chat – junctor console"
        await console.ask(QUESTION)
        await console.answered()
        text = await console.text()
        assert f"You said: {QUESTION}" in text
        for fact in ("complete", "default/demo", "1 provider", "in, ", "stop", "req-"):
            assert fact in text, fact

        for tab, lang in (("curl", "curl"), ("Python", "python"), ("gRPC", "grpc-python")):
            await page.get_by_role("tab", name=tab).click()
            if lang == "grpc-python":
                await page.get_by_text("Address of the gRPC port").click()
                await page.get_by_label("Host and port").fill(f"127.0.0.1:{one.grpc_port}")
            program = await page.locator("#snippet").inner_text()
            expected = told_by_the_command_line(lang, one.url, f"127.0.0.1:{one.grpc_port}")
            assert program.rstrip() == expected.rstrip()
            said = await run_program(lang, program, tmp_path)
            assert "demo model" in said.replace('"},"logprobs', "") or "chat.completion.chunk" in said

        await console.go("Providers")
        assert "default/demo" in await console.text()
        assert await page.locator(".badge", has_text="READY").count() == 1
        await page.get_by_role("button", name="Reset health of default/demo").click()
        await page.get_by_text("asked again at once").wait_for()
        await console.go("Models")
        row = page.get_by_role("row").filter(has_text="default/demo-echo-1")
        assert "discovery" in await row.first.inner_text()
        await row.first.get_by_role("link", name="Explain").click()
        await page.get_by_text("ordered by the policy of its virtual model").wait_for()
        assert "least_outstanding" in await console.text()
        await console.go("Usage")
        await until_used(one)
        await page.get_by_label("Over").select_option("168")
        await page.get_by_role("row").filter(has_text="default/demo-echo-1").wait_for()
        assert "unknown: no price" in await console.text()
        await console.go("Keys")
        assert "Auth is off" in await console.text()
        await console.go("Live")
        await page.get_by_role("row").filter(has_text="default/demo-echo-1").wait_for()


async def test_live_shows_a_call_under_way(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with ScriptedUpstream() as upstream, junctor(tmp_path, "--no-demo") as one, chromium() as browser:
        await one.provider("mine", upstream.url)
        upstream.script(Sse([piece("first"), gate, piece(" second")]))
        async with looking(browser, one.url) as talking, looking(browser, one.url) as console:
            await talking.open()
            await talking.ask("Hello")
            await talking.page.locator(".turn", has_text="first").wait_for()
            await console.open("live")
            row = console.page.get_by_role("row").filter(has_text="default/mine")
            await row.filter(has_text="streams").wait_for()
            gate.set()
            await talking.answered()
            await console.page.get_by_text("No request is under way").wait_for()
            assert "first second" in await talking.text()


async def test_the_truth_about_broken_streams(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream, junctor(tmp_path, "--no-demo") as one, chromium() as browser:
        await one.provider("mine", upstream.url)
        async with looking(browser, one.url) as console:
            page = console.page
            await console.open()
            upstream.script(Sse([piece("half of"), CLOSE]))
            await console.ask("one")
            broken = page.locator(".turn.broken")
            await broken.filter(has_text="what is above is not complete").wait_for()
            assert "half of" in await broken.inner_text()
            assert "ended before it was complete" in await broken.inner_text()
            assert "req-" in await broken.inner_text()
            assert await page.locator(".facts .badge").inner_text() == "not complete"

            hold = asyncio.Event()
            upstream.script(Sse([piece("going"), hold]))
            await console.ask("two")
            await page.locator(".turn", has_text="going").wait_for()
            await page.get_by_role("button", name="Stop").click()
            await broken.filter(has_text="Stopped by you").wait_for()
            await upstream.connections[-1].closed.wait()  # the provider generates no more

            upstream.script(Json(429, {"error": {"message": "slow down"}}))
            await console.ask("three")
            await broken.filter(has_text="slow down").wait_for()
            console.expected += ("status of 429",)
            console.complaints = [one for one in console.complaints if "429" not in one]

            await console.ask("four")
            await console.answered()
            turns = upstream.requests[-1].json()["messages"]
            assert [turn["content"] for turn in turns] == ["four"], "what broke is no part of the chat"
            await what_is_set_is_sent(console, upstream)


async def what_is_set_is_sent(console: Console, upstream: ScriptedUpstream) -> None:
    """Fields of the form are in the call and in the programs that show it."""
    page = console.page
    await page.get_by_role("button", name="New chat").click()
    await page.get_by_label("System prompt").fill("Be brief")
    await page.get_by_label("Temperature").fill("0.5")
    await page.get_by_label("Max tokens").fill("7")
    await page.get_by_role("combobox", name="Answer").select_option("as a whole")
    await console.ask("five")
    await console.answered()
    sent = upstream.requests[-1].json()
    assert [(turn["role"], turn["content"]) for turn in sent["messages"]] == [("system", "Be brief"), ("user", "five")]
    assert (sent["temperature"], sent["max_tokens"], sent.get("stream")) == (0.5, 7, None)
    for tab, parts in (
        ("curl", ('"temperature": 0.5, "max_tokens": 7,', '"role": "system", "content": "Be brief"')),
        ("Python", ("temperature=0.5", "max_tokens=7", "Be brief")),
        ("gRPC", ("temperature=0.5", "max_tokens=7", "Be brief", "create_chat_completion")),
    ):
        await page.get_by_role("tab", name=tab).click()
        program = await page.locator("#snippet").inner_text()
        assert all(part in program for part in parts), program
        assert "stream=True" not in program
        if tab != "curl":
            compile(program, tab, "exec")


async def until_used(one: Junctor) -> None:
    """Wait until the records of what was asked are kept."""

    async def kept() -> bool:
        answer = await one.http.get("/apis/usage/v2/summary", params={"by": "model"})
        return answer.status_code == 200 and bool(answer.json()["sums"])

    await until(kept)


HOSTILE = '<img src=x onerror="window.stolen=1"><script>window.stolen=1</script>'


USED = {
    "by": ["model"],
    "sums": [
        {"group": [HOSTILE], "requests": 3, "input_tokens": 1200, "cost_micros": 1_234_567, "unpriced": 1},
        {"group": [""], "requests": 2, "cost_micros": 0, "unpriced": 2},
    ],
    "total": {"requests": 5, "cost_micros": 1_234_567, "unpriced": 3},
}
"""A summary as the gateway writes it."""


async def test_no_name_or_message_becomes_markup(tmp_path: Path) -> None:
    async with ScriptedUpstream() as upstream, junctor(tmp_path, "--no-demo") as one, chromium() as browser:
        upstream.always(OpenAI("test-model", HOSTILE), path="/v1/models")
        await one.provider("mine", upstream.url)
        bad = {"name": "bad", "host_url": "http://127.0.0.1:1", "description": HOSTILE}
        assert (await one.http.post("/apis/models/v2/workspaces/default/providers", json=bad)).status_code == 201
        status = {"status": "ERROR", "status_message": HOSTILE}
        path = "/apis/models/v2/workspaces/default/providers/bad/status"
        assert (await one.http.put(path, json=status)).status_code == 200
        key = {"workspace": "default", "role": "Viewer", "description": HOSTILE}
        assert (await one.http.post("/apis/auth/v2/keys", json=key)).status_code == 201
        async with looking(browser, one.url) as console:
            await console.open()
            upstream.script(Sse([piece(HOSTILE)]), Json(400, {"error": {"message": HOSTILE}}))
            await console.ask(HOSTILE)
            await console.answered()
            assert (await console.text()).count(HOSTILE) >= 2
            await console.ask("and an error")
            await console.page.locator(".turn.broken", has_text="onerror").wait_for()
            console.complaints = [one for one in console.complaints if "400" not in one]
            console.expected += ("status of 400",)
            await console.page.route("**/apis/usage/v2/summary?*", lambda route: route.fulfill(json=USED))
            for view in VIEWS[1:]:
                await console.go(view)
                if view in {"Providers", "Usage", "Keys"}:
                    assert HOSTILE in await console.text(), view
                if view == "Usage":
                    text = await console.text()
                    assert "$1.23 and 1 without a price" in text
                    assert "unknown: no price" in text
            await console.open(f"explain?model={HOSTILE}")
            assert await console.page.evaluate("window.stolen") is None
            assert await console.page.locator("main img, main script").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_phones_keyboards_and_colours(tmp_path: Path, scheme: str) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "color_scheme": scheme, "reduced_motion": "reduce"}
    async with (
        junctor(tmp_path) as one,
        chromium() as browser,
        looking(browser, one.url, **phone) as console,
    ):
        page = console.page
        await console.open()
        await console.ask("A " + "very" * 60 + " long word")
        await console.answered()
        assert await console.overflow() == 0
        for view in VIEWS:
            await console.go(view)
            assert await console.overflow() == 0, view
            assert await page.evaluate(CONTRAST) == [], view
            assert await page.evaluate(NAMELESS) == [], view
        await page.get_by_label("Theme").select_option("dark" if scheme == "light" else "light")
        assert await page.evaluate(CONTRAST) == []
        assert await page.evaluate("document.getAnimations().length") == 0

        await console.open("providers")
        await page.reload()
        await console.shown()
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.textContent") == "Skip to the content"
        assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "main"
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.textContent") == "Read again"

        await console.open("chat")
        await page.get_by_role("tab", name="curl").focus()
        await page.keyboard.press("ArrowRight")
        assert await page.evaluate("document.activeElement.textContent") == "Python"
        await page.get_by_label("Your message").focus()
        await page.keyboard.type("By keys alone")
        await page.keyboard.press("Control+Enter")
        await page.get_by_text("You said: By keys alone").wait_for()


CONTRAST = """() => {
  const parts = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const light = (colour) => parts(colour).slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if ((parts(colour)[3] ?? 1) > 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || element.disabled || !element.checkVisibility() || element.closest(".quiet, noscript")) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push(`${element.tagName} ${element.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return poor;
}"""
"""Texts whose contrast is below 4.5 (WCAG 2.2, 1.4.3)."""

NAMELESS = """() => [...document.querySelectorAll("input, select, textarea, button, a[href]")]
  .filter((element) => element.checkVisibility())
  .filter((element) => !(element.labels?.length || element.textContent.trim() || element.getAttribute("aria-label")))
  .map((element) => element.outerHTML.slice(0, 80))"""
"""Controls that a screen reader has no name for."""
