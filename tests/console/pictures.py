"""Takes the pictures of docs/console.md: ``python -m tests.console.pictures docs/pictures``."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from tests.cluster import until
from tests.console.stage import Console, Junctor, chromium, junctor, looking

QUESTION = "What can you do?"


async def take(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as home:
        async with junctor(Path(home)) as one, chromium() as browser:
            await one.http.post(
                "/apis/models/v2/workspaces/default/providers",
                json={"name": "spare", "host_url": "http://127.0.0.1:9", "description": "Answers nobody"},
            )
            price = {"model": "demo/*", "input_micros": 400_000, "output_micros": 1_600_000}
            made = await one.http.post("/apis/usage/v2/prices", json=price)
            assert made.is_success, made.text
            async with looking(browser, one.url) as console:
                await chat(console, folder / "console-chat.png")
                await views(console, folder)
                await until(lambda: used(one))
                await console.open("usage")
                await shot(console, folder / "console-usage.png")
            async with looking(browser, one.url, color_scheme="dark") as console:
                await chat(console, folder / "console-dark.png")
            phone = {"viewport": {"width": 375, "height": 780}, "color_scheme": "dark"}
            async with looking(browser, one.url, **phone) as console:
                await console.open("providers")
                await shot(console, folder / "console-phone.png")


async def used(one: Junctor) -> bool:
    answer = await one.http.get("/apis/usage/v2/summary", params={"by": "model"})
    return bool(answer.json().get("sums"))


async def chat(console: Console, file: Path) -> None:
    await console.open()
    await console.ask(QUESTION)
    await console.answered()
    await shot(console, file)


async def views(console: Console, folder: Path) -> None:
    await console.open("providers")
    await shot(console, folder / "console-providers.png")
    await console.open("explain?model=default/demo-echo-1")
    await shot(console, folder / "console-explain.png")
    talking = await console.page.context.new_page()
    other = Console(talking, console.url)
    await other.open()
    await other.ask("A longer question. " * 40)
    await other.page.locator(".turn.assistant", has_text="question").wait_for()
    await console.open("live")
    await console.page.get_by_role("row").filter(has_text="streams").wait_for()
    await console.page.locator("tr", has_text="default/demo").filter(has_not_text="…").nth(1).wait_for()
    await shot(console, folder / "console-live.png")
    await talking.close()


async def shot(console: Console, file: Path) -> None:
    await console.page.screenshot(path=file, full_page=True)


if __name__ == "__main__":
    asyncio.run(take(Path(sys.argv[1])))
