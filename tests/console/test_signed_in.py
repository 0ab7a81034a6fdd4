"""The console with auth on: keys that stay in memory, what a role may not do, users of an issuer by code and PKCE."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.async_api import Route

from tests.cluster import until
from tests.console.stage import ADMIN_KEY, Console, chromium, issuer, junctor, looking, needs_chromium

pytestmark = needs_chromium

KEYS = "/apis/auth/v2/keys"
STORED = "() => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"


async def new_key(one: Any, role: str) -> tuple[str, str]:
    made = await one.http.post(KEYS, json={"workspace": "default", "role": role})
    assert made.status_code == 201, made.text
    return made.json()["id"], made.json()["value"]


async def test_a_key_opens_what_its_role_allows(tmp_path: Path) -> None:
    async with junctor(tmp_path, JUNCTOR_AUTH="on") as one, chromium() as browser:
        key_id, viewer = await new_key(one, "Viewer")
        async with looking(browser, one.url) as console:
            page = console.page
            await console.open("providers", ready=False)
            await page.get_by_role("heading", name="Sign in").wait_for()
            assert not await page.get_by_role("navigation").is_visible()
            await console.sign_in("jnct_nobody")
            await page.get_by_role("alert").filter(has_text="Invalid or expired token").wait_for()
            assert "Request id" in await page.get_by_role("alert").inner_text()
            assert await page.get_by_label("Key", exact=True).input_value() == ""

            await console.sign_in(viewer)
            await page.get_by_role("heading", name="default/demo").wait_for()
            assert viewer not in await page.evaluate(STORED)
            assert viewer not in await page.content()
            await page.get_by_role("button", name="Reset health").click()
            await page.get_by_role("alert").filter(has_text="Your role does not allow this").wait_for()
            await console.go("Keys")
            assert "allow" in await console.text() or "No key" in await console.text()
            await console.go("Chat")
            await console.ask("Hello")
            await console.answered()
            assert "You said: Hello" in await console.text()
            assert viewer not in await page.locator("#snippet").inner_text()

            assert (await one.http.delete(f"{KEYS}/{key_id}")).status_code == 204
            shown = {"authorization": f"Bearer {viewer}"}

            async def refused() -> bool:
                return (await one.http.get("/v1/models", headers=shown)).status_code == 401

            await until(refused)
            await page.get_by_role("link", name="Models").click()
            await page.get_by_text("Sign in again").wait_for()


async def test_a_key_is_made_shown_once_and_revoked(tmp_path: Path) -> None:
    async with junctor(tmp_path, JUNCTOR_AUTH="on") as one, chromium() as browser, looking(browser, one.url) as console:
        page = console.page
        await console.open("keys", ready=False)
        await console.sign_in(ADMIN_KEY)
        await page.get_by_label("What for").fill("a search")
        await page.get_by_label("Days").fill("30")
        await page.get_by_role("button", name="Create key").click()
        value = await page.locator(".notice pre").inner_text()
        answer = await one.http.get("/v1/models", headers={"authorization": f"Bearer {value}"})
        assert answer.status_code == 200
        row = page.get_by_role("row").filter(has_text="a search")
        await row.wait_for()
        await page.get_by_role("button", name="I have it").click()
        assert value not in await page.content()
        await console.go("Providers")
        await console.go("Keys")
        assert value not in await page.content()
        await row.get_by_role("button", name="Revoke").click()
        await row.get_by_role("button", name="Revoke for good?").click()
        await row.wait_for(state="detached")
        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_text("You are signed out").wait_for()
        await console.open("keys", ready=False)
        await page.get_by_role("heading", name="Sign in").wait_for()


async def know_the_console(console: Console, url: str, seen: list[dict[str, list[str]]]) -> None:
    """Add what issuers are told of a client in a browser, and the mock cannot be: its origin, and that it is public."""
    console.expected += ("ERR_NAME_NOT_RESOLVED",)  # the mock's own page has a style sheet from elsewhere

    async def token(route: Route) -> None:
        seen.append(parse_qs(route.request.post_data or ""))
        basic = base64.b64encode(b"junctor:any").decode()
        answer = await route.fetch(headers={**route.request.headers, "authorization": f"Basic {basic}"})
        await route.fulfill(response=answer, headers={**answer.headers, "access-control-allow-origin": "*"})

    await console.page.route(f"{url}/oauth2/token", token)


async def test_a_user_of_an_issuer(tmp_path: Path) -> None:
    async with issuer() as url, chromium() as browser:
        oidc = {"JUNCTOR_OIDC_ISSUER": url, "JUNCTOR_OIDC_CLIENT_ID": "junctor"}
        async with (
            junctor(tmp_path, JUNCTOR_AUTH="on", **oidc) as one,
            looking(browser, one.url) as console,
        ):
            member = {"principal": "jane@example.com", "roles": ["Viewer"]}
            made = await one.http.post("/apis/entities/v2/workspaces/default/members", json=member)
            assert made.status_code in (200, 201), made.text
            page, redeemed = console.page, []
            await know_the_console(console, url, redeemed)
            await console.open("providers", ready=False)
            button = page.get_by_role("button", name=f"Sign in at {urlsplit(url).netloc}")
            async with page.expect_request(lambda request: "/oauth2/authorize" in request.url) as going:
                await button.click()
            asked = parse_qs(urlsplit((await going.value).url).query)
            await page.get_by_role("button", name="jane").first.click()
            await page.get_by_role("heading", name="default/demo").wait_for()

            assert asked["response_type"] == ["code"]
            assert asked["code_challenge_method"] == ["S256"]
            assert "offline_access" not in asked["scope"][0]
            [form] = redeemed
            digest = hashlib.sha256(form["code_verifier"][0].encode()).digest()
            assert asked["code_challenge"] == [base64.urlsafe_b64encode(digest).decode().rstrip("=")]
            assert "client_secret" not in form
            stored = json.loads(await page.evaluate(STORED))
            assert stored == [{}, {}, "", f"{one.url}/console#/providers"], "nothing is left behind"
            async with page.expect_request(lambda request: "/providers?" in request.url) as sent:
                await page.get_by_role("button", name="Read again").click()
            assert (await (await sent.value).all_headers())["authorization"].startswith("Bearer ey")


async def test_answers_of_an_issuer_that_belong_to_no_sign_in(tmp_path: Path) -> None:
    async with issuer() as url, chromium() as browser:
        oidc = {"JUNCTOR_OIDC_ISSUER": url, "JUNCTOR_OIDC_CLIENT_ID": "junctor"}
        async with junctor(tmp_path, JUNCTOR_AUTH="on", **oidc) as one, looking(browser, one.url) as console:
            page, redeemed = console.page, []
            await know_the_console(console, url, redeemed)
            await page.goto(f"{one.url}/console?code=stolen&state=guessed")
            await page.get_by_role("alert").filter(has_text="belongs to no sign-in").wait_for()
            assert page.url == f"{one.url}/console"
            assert redeemed == [], "no code of a stranger is redeemed"

            await page.get_by_role("button", name="Sign in at").click()
            await page.get_by_role("button", name="Deny").click()
            await page.get_by_role("alert").filter(has_text="belongs to no sign-in").wait_for()  # it says no state
            assert page.url == f"{one.url}/console"

            await page.get_by_role("button", name="Sign in at").click()
            await page.get_by_role("button", name="Deny").wait_for()
            state = parse_qs(urlsplit(page.url).query)["state"][0]
            await page.goto(f"{one.url}/console?error=access_denied&state={state}")
            await page.get_by_role("alert").filter(has_text="The issuer refused: access_denied").wait_for()

            await page.get_by_role("button", name="Sign in at").click()
            await page.get_by_role("button", name="jane").first.wait_for()
            forged = page.url.replace("nonce=", "nonce=x")  # as if the answer were to another sign-in
            await page.goto(forged)
            await page.get_by_role("button", name="jane").first.click()
            await page.get_by_role("alert").filter(has_text="not for this sign-in").wait_for()
            assert await page.evaluate("sessionStorage.length") == 0
