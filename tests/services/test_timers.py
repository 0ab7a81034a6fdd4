"""The four timers of a call, each in every phase it bounds and from every place it can be set in.

No elapsed time is looked at: the timer under test is short, all the others are longer than any test may take.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from junctor.v1 import provider_registry_pb2 as pb
from services.inference_router.upstream_types import Timers
from tests.cluster import running
from tests.router_bench import CALLS, benches, openai
from tests.upstream import Behaviour, Hang, Json, OpenAI, ScriptedUpstream

SHORT, LONG = 0.15, 60.0
OK = Json(200, {"model": "vendor/m"})
CHAT = {"model": "default/m1", "messages": []}


@asynccontextmanager
async def hanging(at: str) -> AsyncIterator[str]:
    """A provider's URL that hangs: while connecting (in the handshake of TLS), or where :class:`Hang` does."""
    if at != "connect":
        async with ScriptedUpstream(default=Hang(at)) as upstream:
            yield upstream.url
        return

    served: list[asyncio.Task[None] | None] = []

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.current_task())
        with contextlib.suppress(OSError):
            while await reader.read(4096):
                pass
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    await asyncio.gather(*(task for task in served if task is not None))


PHASES: dict[str, tuple[str, str, str]] = {
    # The timer, where the provider hangs, how the call ends.
    "connecting": ("connect", "connect", "UPSTREAM_TIMEOUT"),
    "no head": ("first_byte", "head", "UPSTREAM_TIMEOUT"),
    "a head but no body byte": ("first_byte", "body", "UPSTREAM_TIMEOUT"),
    "between body bytes": ("idle", "middle", "200 stalled"),
    "total while connecting": ("total", "connect", "UPSTREAM_TIMEOUT"),
    "total without a head": ("total", "head", "UPSTREAM_TIMEOUT"),
    "total without a body byte": ("total", "body", "UPSTREAM_TIMEOUT"),
    "total between body bytes": ("total", "middle", "200 timed_out"),
}


def set_in(place: str, timer: str) -> tuple[dict[str, Any], pb.ProviderTimeouts, dict[str, float]]:
    """Return figures of the router, timers of the provider and of the call: the one under test short, others long."""
    limits = Timers(connect=LONG, first_byte=LONG, idle=LONG)
    total = LONG
    own, asked = pb.ProviderTimeouts(), {}
    if place == "provider":
        setattr(own, f"{timer}_ms", int(SHORT * 1000))
    elif place == "request":
        asked = {"timeout" if timer == "total" else f"{timer}_timeout": SHORT}
    elif timer == "total":
        total = SHORT
    else:
        limits = replace(limits, **{timer: SHORT})
    return {"timers": limits, "total": total}, own, asked


@pytest.mark.parametrize(("timer", "at", "result"), PHASES.values(), ids=PHASES.keys())
@pytest.mark.parametrize("place", ["setting", "provider", "request"])
@pytest.mark.parametrize("route", ["model", "provider"])
async def test_each_timer_ends_its_phase(timer: str, at: str, result: str, place: str, route: str) -> None:
    figures, own, asked = set_in(place, timer)
    async with hanging(at) as url, benches(**figures) as bench:
        bench.provider("p0", url, timeouts=own)
        bench.model()
        assert await bench.result(CALLS[route](**asked)) == result
        await bench.idle()
        async with asyncio.timeout(LONG):
            while bench.client.open_connections:
                await asyncio.sleep(0)


@pytest.mark.parametrize(("timer", "at"), [("connect", "connect"), ("first_byte", "head"), ("first_byte", "body")])
@pytest.mark.parametrize("place", ["setting", "provider", "request"])
async def test_a_timer_of_an_attempt_leads_to_the_next_provider(timer: str, at: str, place: str) -> None:
    figures, own, asked = set_in(place, timer)
    async with hanging(at) as url, ScriptedUpstream(default=OK) as other, benches(**figures) as bench:
        bench.in_turn(url, other.url)
        bench.provider("p0", url, timeouts=own)
        sink = await bench.ask(openai(**asked))
        assert sink.got is not None
        assert sink.outcome is not None
        failure = "connect_timeout" if at == "connect" else "timeout"
        assert (sink.got.provider, sink.outcome.attempts[0].failure) == ("default/p1", failure)


async def test_the_total_leaves_no_time_for_another_provider() -> None:
    async with hanging("head") as url, ScriptedUpstream(default=OK) as other, benches(total=SHORT) as bench:
        bench.in_turn(url, other.url)
        assert await bench.result(openai()) == "UPSTREAM_TIMEOUT"
        assert not other.requests


@pytest.mark.parametrize("timer", ["connect", "first_byte", "idle", "total"])
async def test_a_request_only_ever_shortens(timer: str) -> None:
    at = {"idle": "middle", "connect": "connect"}.get(timer, "head")
    figures, own, _ = set_in("setting", timer)
    asked = {"timeout" if timer == "total" else f"{timer}_timeout": LONG}
    async with hanging(at) as url, benches(**figures) as bench:
        bench.provider("p0", url, timeouts=own)
        bench.model()
        assert await bench.result(openai(**asked)) in ("UPSTREAM_TIMEOUT", "200 stalled")


# -- through settings and HTTP


SETTINGS: dict[str, tuple[str, Behaviour, int]] = {
    "first byte": ("first_byte_timeout", Hang("head"), 504),
    "total": ("total_timeout", Hang("body"), 504),
    "idle": ("idle_timeout", Hang("middle"), 200),
}


@pytest.mark.parametrize(("setting", "behaviour", "status"), SETTINGS.values(), ids=SETTINGS.keys())
async def test_a_setting_reaches_the_router(tmp_path: Path, setting: str, behaviour: Behaviour, status: int) -> None:
    async with ScriptedUpstream(default=OpenAI("m1")) as up, running(tmp_path, **{setting: "0.2"}) as made:
        await made.add_provider("p0", up.url)
        up.script(behaviour, path="/v1/chat/completions")
        answer = await made.http.post("/v1/chat/completions", json=CHAT)
        assert answer.status_code == status, answer.text
        if status == 200:
            assert "event: error" in answer.text
            assert "[DONE]" not in answer.text


@pytest.mark.parametrize("hop", ["direct", "grpc"])
async def test_a_header_lowers_the_total_and_stops_here(tmp_path: Path, hop: str) -> None:
    async with ScriptedUpstream(default=OpenAI("m1")) as up, running(tmp_path, hop=hop) as made:
        await made.add_provider("p0", up.url)
        up.script(Hang("head"), path="/v1/chat/completions")
        headers = {"x-junctor-timeout-ms": "200"}
        for path in ("/v1/chat/completions", "/apis/inference-gateway/v2/workspaces/default/provider/p0/-/v1/x"):
            up.script(Hang("head"), path="/v1/x")
            answer = await made.http.post(path, json=CHAT, headers=headers)
            assert answer.status_code == 504, answer.text
            assert "0.2 s" in answer.text
            assert up.requests[-1].header("x-junctor-timeout-ms") is None
