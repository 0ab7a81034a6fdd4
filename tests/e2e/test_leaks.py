"""Callers that leave, readers that do not read, answers that swell: what stays behind in a running junctor is nothing.

Six hundred calls are abandoned in each phase, over REST and gRPC, plain and streamed, with the router beside the edge
and behind gRPC. ``benchmarks/soak.py`` does thousands with real processes, and measures memory.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import os
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from junctor.v1 import inference_pb2 as typed
from junctor.v1.inference_pb2_grpc import InferenceStub
from services.inference_router.router import Router
from tests.cluster import Cluster, running, until
from tests.e2e.core import MESSAGES, MODELS
from tests.upstream import PATIENCE, SILENCE, Hang, Raw, Received, ScriptedUpstream, Wire, chunk, head

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts what /proc shows")

CHAT = "/apis/inference-gateway/v2/workspaces/default/openai/-/v1/chat/completions"
MODEL = "default/test-model"
PHASES = ("queue", "connect", "headers", "middle")
ROUNDS, EACH = 6, 25
"""Rounds of abandoned calls, and how many of a round go by each of the four ways."""
LOOKS = 60
"""At what is left, one each second, before it counts as a leak."""
MIB = 1024 * 1024


class Stuck:
    """A provider that stops before its head, or in the middle of the body."""

    def __init__(self, phase: str) -> None:
        self._phase = phase

    async def play(self, request: Received, wire: Wire) -> None:
        """Send what comes before the silence."""
        if self._phase != "middle":
            await Hang("head").play(request, wire)
        elif request.json().get("stream"):
            await Hang("middle").play(request, wire)
        else:
            fields = (("content-type", "application/json"), ("content-length", "1000"))
            await Raw(head(200, *fields) + b'{"half":', SILENCE).play(request, wire)


@dataclass
class Rig:
    """A junctor with one provider, and calls on it that can be abandoned."""

    cluster: Cluster
    upstream: ScriptedUpstream
    open: list[Callable[[], Any]] = field(default_factory=list)
    """What abandons each call."""
    passing: set[asyncio.Future[Any]] = field(default_factory=set)

    @property
    def router(self) -> Router:
        service = self.cluster.node._router
        assert service is not None
        assert isinstance(service.invoker, Router)
        return service.invoker

    def reached(self, phase: str, calls: int) -> bool:
        """Tell whether that many calls are where they shall be abandoned."""
        ledger = self.router.ledger
        if phase == "queue":
            return ledger.slots.waiting("default/up") == calls
        return sum(ledger.loads.values()) == calls and (phase == "connect" or len(self.upstream.requests) == calls)

    def begin(self) -> None:
        """Make a call by each way."""
        for stream in (False, True):
            self.http(stream)
            self._grpc(stream)

    def http(self, stream: bool) -> None:
        """Make a call over REST. It is abandoned by an orderly close, every other time by a reset."""
        url = self.cluster.http.base_url
        caller = socket.create_connection((url.host, url.port))
        if len(self.open) % 8:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        body = json.dumps({"model": MODEL, "messages": MESSAGES, "stream": stream}).encode()
        caller.sendall(
            b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (CHAT.encode(), len(body), body)
        )
        self.open.append(caller.close)

    def _grpc(self, stream: bool) -> None:
        stub = InferenceStub(self.cluster.channel)
        request = typed.ChatCompletionRequest(
            model=MODEL, messages=[typed.ChatMessage(role="user", content=[typed.ContentPart(text="Hi")])]
        )
        call: Any = (stub.StreamChatCompletion if stream else stub.CreateChatCompletion)(request)
        self._pass(call.read() if stream else call)
        self.open.append(call.cancel)

    def _pass(self, awaitable: Awaitable[Any]) -> None:
        async def wait() -> None:
            await awaitable

        self.passing.add(asyncio.ensure_future(wait()))

    async def leave(self) -> None:
        """Abandon every call, and wait until nobody works on any."""
        for abandon in self.open:
            abandon()
        self.open.clear()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*self.passing, return_exceptions=True)
        self.passing.clear()


@pytest_asyncio.fixture(params=["direct", "grpc"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    async with (
        ScriptedUpstream() as upstream,
        running(tmp_path, hop=request.param, discovery_interval="600") as cluster,
    ):
        await cluster.add_provider("up", upstream.url)
        upstream.requests.clear()
        yield Rig(cluster, upstream)


async def abandon(rig: Rig, phase: str, holding: int) -> None:
    """One round: begin the calls, wait until they are in the phase, leave, wait until the provider saw them leave."""
    rig.upstream.requests.clear()
    for _ in range(EACH):
        rig.begin()
    await until(lambda: said(rig.reached(phase, 4 * EACH)), seconds=PATIENCE)
    await rig.leave()
    ledger = rig.router.ledger
    await until(lambda: said(sum(ledger.loads.values()) == holding), seconds=PATIENCE)
    await until(lambda: said(ledger.slots.waiting("default/up") == 0), seconds=PATIENCE)
    still = [peer for peer in rig.upstream.connections if not peer.closed.is_set() and peer.requests]
    await rig.upstream.wait_for(lambda: sum(not peer.closed.is_set() for peer in still) <= holding)
    rig.upstream.connections[:] = [peer for peer in still if not peer.closed.is_set()]


async def said(condition: bool) -> bool:
    return condition


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def objects() -> Counter[str]:
    """Count what the collector knows, by type."""
    gc.collect()
    return Counter(type(each).__name__ for each in gc.get_objects())


async def grown_by_less(than: int, before: Counter[str]) -> None:
    """Wait until there are so few more objects; what a call left to the loop's timers goes a moment later."""
    for _ in range(LOOKS):
        if (now := objects()).total() - before.total() < than:
            return
        await asyncio.sleep(1)
    pytest.fail(f"{now.total() - before.total()} objects more: {(now - before).most_common(12)}")


@pytest.mark.parametrize("phase", PHASES)
async def test_hundreds_of_abandoned_calls_leave_no_task_socket_or_object(rig: Rig, phase: str) -> None:
    rig.upstream.always(Stuck(phase), path="/v1/chat/completions")
    with ExitStack() as stack:
        holding = 0
        if phase == "queue":
            await limit(rig, 1)
            rig.http(False)
            holder = rig.open.pop()
            holding = 1
            stack.callback(holder)
            await rig.upstream.request()
        if phase == "connect":
            await rig.upstream.refuse()
            clogged(stack, rig.upstream.port)
        await abandon(rig, phase, holding)  # what is made once is made now,
        await until(lambda: recorded(rig), seconds=PATIENCE)  # also for the records of these calls
        tasks, files, things = len(asyncio.all_tasks()), descriptors(), objects()
        for _ in range(ROUNDS):
            await abandon(rig, phase, holding)
        # The rest of junctor has tasks and connections that come and go, fewer than one round of one way makes.
        await until(lambda: said(len(asyncio.all_tasks()) < tasks + EACH and descriptors() < files + EACH))
        # A call that leaks, by any of the four ways, leaves its task, its frames and what they hold.
        await grown_by_less(5 * ROUNDS * EACH, things)


async def recorded(rig: Rig) -> bool:
    """Tell whether a record of usage was written: statements and connections are made for the first one."""
    return bool((await rig.cluster.http.get("/apis/usage/v2/usage")).json()["data"])


async def limit(rig: Rig, calls: int) -> None:
    changed = {"host_url": rig.upstream.url, "max_concurrency": calls}
    answer = await rig.cluster.http.put(f"{MODELS}/default/providers/up", json=changed)
    assert answer.status_code == 200, answer.text
    keeper = rig.router._keeper
    await until(lambda: said(keeper.catalog.providers["default", "up"].max_concurrency == calls), seconds=PATIENCE)
    await rig.cluster.provider_ready("up")
    rig.upstream.requests.clear()


def clogged(stack: ExitStack, port: int) -> None:
    """Listen, and let nobody in: the queue of connections that wait to be accepted is full."""
    listener = stack.enter_context(socket.socket())
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(0)
    for _ in range(4):
        waiting = stack.enter_context(socket.socket())
        waiting.setblocking(False)
        waiting.connect_ex(("127.0.0.1", port))


class Flood:
    """An answer of many bytes, as an event stream that nobody has to read."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.sent = 0

    async def play(self, request: Received, wire: Wire) -> None:
        """Send for as long as somebody reads."""
        await wire.write(head(200, ("content-type", "text/event-stream"), ("transfer-encoding", "chunked")))
        event = b"data: " + b"x" * 65528 + b"\n\n"
        while self.sent < self._size:
            await wire.write(chunk(event))
            self.sent += len(event)
        await wire.write(chunk(b""))


async def test_a_reader_that_does_not_read_stops_the_provider(rig: Rig) -> None:
    """What the kernel's buffers take, and little more; 200 MB and resident memory are measured by the soak."""
    flood = Flood(96 * MIB)
    rig.upstream.always(flood, path="/v1/chat/completions")
    rig.http(True)
    await rig.upstream.request()
    before, unchanged = -1, 0
    async with asyncio.timeout(PATIENCE):
        while unchanged < 20:
            before, unchanged = flood.sent, unchanged + 1 if flood.sent == before > 0 else 0
            await asyncio.sleep(0.02)
    assert 0 < flood.sent < 48 * MIB
    await rig.leave()
    await until(lambda: said(not rig.router.ledger.loads), seconds=PATIENCE)


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream", "text/plain"])
async def test_an_answer_that_swells_a_thousand_times_needs_no_memory(rig: Rig, kind: str) -> None:
    bomb = gzip.compress(b'{"a":"' + bytes(96 * MIB), 1)
    fields = (("content-type", kind), ("content-encoding", "gzip"), ("content-length", str(len(bomb))))
    rig.upstream.always(Raw(head(200, *fields) + bomb), path="/v1/chat/completions")
    Path("/proc/self/clear_refs").write_text("5")  # the peak of resident memory counts from now on
    before = resident("VmHWM")
    body, plain = {"model": MODEL, "messages": MESSAGES}, {"accept-encoding": "identity"}
    async with rig.cluster.http.stream("POST", CHAT, json=body, headers=plain) as answer:
        assert answer.status_code == 200
        swollen = 0
        async for part in answer.aiter_raw():
            swollen += len(part)
    assert swollen == 96 * MIB + 6
    assert resident("VmHWM") - before < 24


def resident(what: str) -> float:
    """MiB; ``VmHWM`` is the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024
