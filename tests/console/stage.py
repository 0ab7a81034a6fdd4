"""A real junctor and a real Chromium: what tests of the console stand on.

Chromium is Debian's package; where it is missing these tests are skipped, and say so. A page that breaks its content
security policy, throws, or complains on its console fails its test.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright

from tests.cluster import until
from tests.e2e.processes import PATIENCE, Process, process
from tests.ports import free_port

ADMIN_KEY = "the-bootstrap-key-of-this-test"
CHROMIUM = shutil.which("chromium")
MISSING = "SKIPPED, THE CONSOLE WAS NOT LOOKED AT: there is no chromium (Debian's package; make chromium installs it)"
PROVIDERS = "/apis/models/v2/workspaces/{}/providers"

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)

_WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`);
});
"""


@dataclass
class Junctor:
    """A ``junctor up`` that is ready, with its demo provider."""

    process: Process
    http: httpx.AsyncClient
    grpc_port: int

    @property
    def url(self) -> str:
        return str(self.http.base_url).rstrip("/")

    async def provider(self, name: str, host_url: str) -> None:
        """Register a provider of ``default`` and wait until its models route."""
        body = {"name": name, "host_url": host_url}
        made = await self.http.post(PROVIDERS.format("default"), json=body)
        assert made.status_code == 201, made.text
        await self.answers(f"/apis/inference-gateway/v2/workspaces/default/provider/{name}/ready")

    async def answers(self, path: str) -> None:
        async def asked() -> bool:
            return (await self.http.get(path)).status_code == 200

        await until(asked, seconds=PATIENCE)


@asynccontextmanager
async def junctor(folder: Path, *flags: str, **environ: str) -> AsyncIterator[Junctor]:
    """Run ``junctor up`` until the demo's models route; with ``JUNCTOR_AUTH`` the client shows the admin's key."""
    port, grpc_port = free_port(), free_port()
    ports = ("--port", str(port), "--grpc-port", str(grpc_port))
    environ = {"JUNCTOR_SEED": "false", **environ}
    headers = {}
    if "JUNCTOR_AUTH" in environ:
        environ["JUNCTOR_ADMIN_KEY"] = ADMIN_KEY
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    base = f"http://127.0.0.1:{port}"
    async with (
        process("junctor", "up", "--no-detect", *ports, *flags, folder=folder, **environ) as one,
        httpx.AsyncClient(base_url=base, trust_env=False, timeout=60, headers=headers) as http,
    ):

        async def shown() -> bool:
            assert one.running(), one.stderr
            return "Ctrl-C" in one.stdout

        await until(shown, seconds=PATIENCE)
        yield Junctor(one, http, grpc_port)


@dataclass
class Console:
    """The page in a browser. ``expected``: parts of console messages that belong to the test."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    expected: tuple[str, ...] = ("status of 401", "status of 403", "status of 404")

    async def open(self, view: str = "", *, ready: bool = True) -> None:
        """Show a view (``providers``), and wait until it is there."""
        await self.page.goto(f"{self.url}/console" + (f"#/{view}" if view else ""))
        if ready:
            await self.shown()

    async def shown(self) -> None:
        """Wait until a view has loaded."""
        await self.page.locator("main h1").wait_for()
        await self.page.locator("main > [aria-busy]").wait_for(state="detached")

    async def go(self, view: str) -> None:
        """Go to a view by its link."""
        await self.page.get_by_role("navigation").get_by_role("link", name=view).click()
        await self.page.locator("main h1", has_text=view).wait_for()
        await self.shown()

    async def ask(self, text: str) -> None:
        """Send a message in the playground."""
        await self.page.get_by_label("Your message").fill(text)
        await self.page.get_by_role("button", name="Send").click()

    async def answered(self) -> None:
        """Wait until the playground is done with an answer."""
        await self.page.locator(".talk .turn.assistant").last.wait_for()
        await self.page.locator(".talk[aria-busy]").wait_for(state="detached")

    async def sign_in(self, key: str) -> None:
        await self.page.get_by_label("Key", exact=True).fill(key)
        await self.page.get_by_role("button", name="Sign in", exact=True).click()

    async def text(self) -> str:
        return await self.page.locator("main").inner_text()

    async def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        script = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return int(await self.page.evaluate(script))

    def heard(self, message: ConsoleMessage) -> None:
        text = message.text
        if message.type in {"error", "warning"} and not any(part in text for part in self.expected):
            self.complaints.append(f"{message.type}: {text}")

    async def at_peace(self) -> None:
        """Fail if the page broke its policy, threw or complained."""
        self.complaints += await self.page.evaluate("() => window.violations ?? []")
        assert not self.complaints, self.complaints


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Debian's Chromium, headless; as root it cannot have its sandbox."""
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*flags, "--disable-dev-shm-usage", "--no-proxy-server"]
        )
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def looking(browser: Browser, url: str, **context: Any) -> AsyncIterator[Console]:
    """A window of its own onto the console of ``url``, held to its policy at the end."""
    options: dict[str, Any] = {"viewport": {"width": 1180, "height": 820}, "locale": "en-GB", "timezone_id": "UTC"}
    opened = await browser.new_context(**options | context)
    try:
        page = await opened.new_page()
        await page.add_init_script(_WATCH)
        console = Console(page, url)
        page.on("console", console.heard)
        page.on("pageerror", lambda error: console.complaints.append(f"thrown: {error}"))
        try:
            yield console
        except BaseException:
            print(page.url, console.complaints, await page.locator("body").inner_text(), sep="\n")  # noqa: T201
            raise
        await console.at_peace()
    finally:
        await opened.close()


@asynccontextmanager
async def issuer() -> AsyncIterator[str]:
    """A real OIDC provider in a process of its own; gives its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    jane = {"sub": "jane", "email": "jane@example.com", "email_verified": True}
    command = (sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(port), "--require-nonce")
    quiet = asyncio.subprocess.DEVNULL
    made = await asyncio.create_subprocess_exec(*command, "--user-claims", json.dumps(jane), stdout=quiet, stderr=quiet)

    async def answers() -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                return (await client.get(f"{url}/jwks")).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        await until(answers)
        yield url
    finally:
        made.kill()
        await made.wait()
