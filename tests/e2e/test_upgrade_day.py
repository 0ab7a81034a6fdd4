"""Upgrade day: any service of this release works with any of the one before, in any order, and back again.

Real processes; the release before is its own wheel. Every service is exchanged under load, one at a time: all of them
to this release, then all of them back, in the same order, so each pair of services meets in both combinations of
releases. No request may fail, streams under way end whole, and a Watch resumes at one release with a token of the
other. ``--all-orders`` goes through every order of the services; without it, through one.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from junctor.channel import open_channel
from services.settings_table import GATEWAY
from tests.cluster import Access, until
from tests.e2e.core import NAMES, UPSTREAM_IDS, thread
from tests.e2e.previous_release import before, installed
from tests.e2e.processes import PATIENCE
from tests.e2e.test_rolling import CHAT, ENTITY, Load
from tests.e2e.upgrading import ROUTER, SERVICES, Site, Writer, followers, site
from tests.sharing import folder_of_the_run
from tests.upstream import OpenAI, Received, ScriptedUpstream, Sse, Wire

THIS = "junctord"
PAUSE = 0.05
"""Seconds between the requests of a client: the services are to be exchanged under load, not starved."""
ORDERS = list(itertools.permutations(SERVICES))
USUAL = ORDERS.index(("model-registry", GATEWAY, "access-control", ROUTER, "provider-registry"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    orders = ORDERS if metafunc.config.getoption("--all-orders") else [ORDERS[USUAL]]
    metafunc.parametrize("order", orders, ids=lambda order: " ".join(name[0] + name[-1] for name in order))


class Provider:
    """Answers at once, but for a stream that was asked for slowly: that one goes on when the test says so."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.begun = 0
        self._usual = OpenAI(*UPSTREAM_IDS)

    async def play(self, request: Received, wire: Wire) -> None:
        body = request.json()
        if body["messages"][0]["content"] != "slowly":
            await self._usual.play(request, wire)
            return
        self.begun += 1
        events = [{**PIECE, "choices": [{**CHOICE, "delta": {"content": text}}]} for text in ("one", "two")]
        await Sse([events[0], self.gate, events[1]]).play(request, wire)


CHOICE = {"index": 0, "finish_reason": None}
PIECE = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "test-model"}


class Streams:
    """Streams, begun before a process is told to end and finished after that."""

    def __init__(self, provider: Provider, made: Site) -> None:
        self._provider, self._site = provider, made

    async def begun(self) -> list[asyncio.Task[str]]:
        self._provider.gate = asyncio.Event()
        goal = self._provider.begun + 2
        edge = f"http://127.0.0.1:{self._site.newest(GATEWAY).port}"
        under_way = [asyncio.create_task(self._one(edge)) for _ in range(2)]

        async def all_begun() -> bool:
            return self._provider.begun >= goal

        await until(all_begun, seconds=PATIENCE)
        return under_way

    async def whole(self, under_way: list[asyncio.Task[str]]) -> None:
        self._provider.gate.set()
        for text in await asyncio.gather(*under_way):
            assert '"one"' in text
            assert '"two"' in text
            assert text.rstrip().endswith("data: [DONE]")

    async def _one(self, edge: str) -> str:
        body = {"model": ENTITY, "messages": [{"role": "user", "content": "slowly"}], "stream": True}
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as http:
            return (await http.post(edge + CHAT, json=body)).text


async def test_any_service_is_exchanged_under_load_and_back_and_no_request_fails(
    order: tuple[str, ...], postgres_url: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    previous = installed(before(), folder_of_the_run(tmp_path_factory)) / "junctord"
    provider = Provider()
    async with ScriptedUpstream() as upstream, site(tmp_path, postgres_url, previous) as made, access(made) as way:
        await thread(way, upstream)
        upstream.always(provider, path=CHAT)
        load = Load(made.urls, made.target(ROUTER), pause=PAUSE)
        writer = Writer(made.urls, load.failed, PAUSE)
        watching = followers(made)
        async with AsyncExitStack() as stack:
            for follower in watching.values():
                await stack.enter_async_context(follower.following())
            await stack.enter_async_context(load.running())
            writing = asyncio.create_task(writer.run())
            assert await made.migration(THIS).run() == 0
            for release in (THIS, previous):
                for name in order:
                    await exchanged(made, name, release, Streams(provider, made))
                    await load.more(5)
                    assert load.failed == []
            writer.over = True
            await writing
            there = {"access-control": {"default", "system"}, "model-registry": set(NAMES), "provider-registry": {"up"}}
            for name, follower in watching.items():
                await until(lambda name=name, f=follower: told(f.names, writer.expected[name] | there[name]))
                assert follower.snapshots == 1
                assert follower.resumed >= 2, "its token was never shown to the other release"
        assert load.failed == []
        assert writer.done > len(order)


@asynccontextmanager
async def access(made: Site) -> AsyncIterator[Access]:
    """The ways in, as long as nothing has been exchanged."""
    url = f"http://127.0.0.1:{made.newest(GATEWAY).port}"
    async with (
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE) as http,
        open_channel(made.target(ROUTER)) as channel,
    ):
        yield Access(http, channel)


async def exchanged(made: Site, name: str, release: str | Path, streams: Streams) -> None:
    under_way = await streams.begun()
    await made.exchange(name, release)
    await streams.whole(under_way)
    await made.ended(name)


async def told(names: set[str], expected: set[str]) -> bool:
    return names == expected
