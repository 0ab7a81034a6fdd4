"""``junctor up --open``: the browser that the user has set gets the console's address, once it can be served."""

from __future__ import annotations

from pathlib import Path

from tests.cluster import until
from tests.console.stage import junctor
from tests.e2e.processes import PATIENCE


async def test_the_console_is_opened_in_the_users_browser(tmp_path: Path) -> None:
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" >> "{opened}"\n')
    browser.chmod(0o755)
    async with junctor(tmp_path / "junctor", "--no-demo", "--open", BROWSER=str(browser)) as one:

        async def told() -> bool:
            return opened.exists() and opened.read_text().endswith("\n")

        await until(told, seconds=PATIENCE)
        [address] = opened.read_text().split()
        assert address == f"{one.url}/console"
        answer = await one.http.get(address)
        assert answer.headers["content-type"].startswith("text/html")


async def test_without_a_console_none_is_shown_or_opened(tmp_path: Path) -> None:
    async with junctor(tmp_path, "--no-demo", "--open", BROWSER="/bin/false", JUNCTOR_CONSOLE="off") as one:
        assert "/console" not in one.process.stdout

        async def said() -> bool:
            return "JUNCTOR_CONSOLE is off" in one.process.stderr

        await until(said, seconds=PATIENCE)
