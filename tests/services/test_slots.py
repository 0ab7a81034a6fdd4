"""Calls at a time at one provider: who gets a slot, who waits, who is refused, and that nothing is left behind."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from junctor.errors import MalformedRequest, NotReady, Overloaded, UpstreamTimeout
from junctor.v1 import inference_pb2 as typed
from junctor.v1 import inference_router_pb2 as rpb
from junctor.v1 import provider_registry_pb2 as pb
from junctor.v1 import virtual_models_pb2 as vpb
from junctor.v1.inference_pb2_grpc import InferenceStub
from junctor.v1.receipt_pb2 import Receipt
from services.access.identity import NOBODY
from services.inference_router.attempts import ATTEMPTS, SENT
from services.inference_router.explaining import explain
from services.inference_router.replaying import replay
from services.inference_router.slots import Slots
from services.inference_router.snapshot import AdminState, Provider
from services.inference_router.target import parse_base
from tests.cluster import running
from tests.router_bench import Bench, benches, by_model, by_provider
from tests.upstream import PATIENCE, Hang, Json, ScriptedUpstream

OK = Json(200, {"model": "vendor/m"})
FOREVER = 1e9
CHAT = "/v1/chat/completions"
ASKED = {"model": "default/test-model", "messages": []}


def provider(limit: int = 1) -> Provider:
    return Provider("default", "p0", parse_base("http://x.invalid"), ready=True, max_concurrency=limit)


class Line:
    """One provider's slots under a clock that the test moves."""

    def __init__(self, limit: int = 1, queue_limit: int = 3) -> None:
        self.now = 0.0
        self.provider = provider(limit)
        self.slots = Slots(lambda: self.now, queue_limit=queue_limit)
        self.turns: list[str] = []

    async def call(self, name: str, until: float = FOREVER) -> asyncio.Task[None]:
        async def wait() -> None:
            await self.slots.take(self.provider, until)
            self.turns.append(name)

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        return task

    async def done(self, held: float = 1.0) -> None:
        self.slots.release("default/p0", held)
        for _ in range(3):
            await asyncio.sleep(0)


async def test_turns_come_in_the_order_of_arrival() -> None:
    line = Line(limit=2)
    for name in "abcd":
        await line.call(name)
    assert line.turns == ["a", "b"]
    assert line.slots.full == {"default/p0"}
    await line.done()
    assert line.turns == ["a", "b", "c"]
    await line.done()
    await line.done()
    assert line.turns == ["a", "b", "c", "d"]
    assert not line.slots.full
    await line.done()
    assert line.slots.waiting("default/p0") == 0


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_again() -> None:
    line = Line(queue_limit=1)
    await line.call("a")
    await line.done(held=4.0)
    await line.call("a")
    waiting = await line.call("b")
    refused = await line.call("c")
    with pytest.raises(Overloaded, match="1 calls wait for it already") as caught:
        await refused
    assert caught.value.retry_after == 8.0  # two are before it, four seconds each
    await line.done()
    await waiting
    await line.done()


async def test_a_call_whose_turn_would_come_after_its_deadline_is_refused_at_once() -> None:
    line = Line()
    await line.call("a")
    await line.done(held=4.0)
    await line.call("a")
    with pytest.raises(Overloaded, match="after its deadline"):
        await (await line.call("b", until=3.0))
    in_time = await line.call("c", until=5.0)
    await line.done(held=4.0)
    await in_time
    await line.done()


async def test_a_caller_that_leaves_the_queue_leaves_no_gap() -> None:
    line = Line()
    await line.call("a")
    gone, stays = await line.call("b"), await line.call("c")
    gone.cancel()
    await line.done()
    await stays
    assert line.turns == ["a", "c"]
    await line.done()
    assert not line.slots.full


async def test_a_caller_that_leaves_in_the_moment_of_its_turn_passes_it_on() -> None:
    line = Line()
    await line.call("a")
    gone, stays = await line.call("b"), await line.call("c")
    line.slots.release("default/p0", 1.0)
    gone.cancel()
    await asyncio.wait([gone, stays])
    assert line.turns == ["a", "c"]
    await line.done()
    assert not line.slots.full


async def test_thousands_that_leave_the_queue_leave_nothing_behind() -> None:
    line = Line(queue_limit=10_000)
    await line.call("a")
    waiting = [await line.call("b") for _ in range(10_000)]
    for task in reversed(waiting):
        task.cancel()
    await asyncio.wait(waiting)
    assert (line.slots.waiting("default/p0"), line.turns) == (0, ["a"])
    await line.done()
    await line.call("c")
    assert line.turns == ["a", "c"]
    await line.done()
    assert not line.slots.full


@pytest.mark.parametrize("limit", [3, 0], ids=["raised", "taken away"])
async def test_a_raised_limit_holds_for_those_who_wait(limit: int) -> None:
    line = Line()
    await line.call("a")
    await line.call("b")
    line.slots.follow("default/p0", provider(limit))
    assert not line.slots.full
    await line.call("c")
    assert sorted(line.turns) == ["a", "b", "c"]
    for _ in range(3):
        await line.done()
    assert not line.slots.full


async def test_a_lowered_limit_lets_the_open_calls_end_and_nobody_in_before() -> None:
    line = Line(limit=3)
    for name in "abc":
        await line.call(name)
    line.slots.follow("default/p0", provider(1))
    waiting = await line.call("d")
    await line.done()
    await line.done()
    assert (line.slots.full, line.turns) == ({"default/p0"}, ["a", "b", "c"])
    await line.done()
    await waiting
    assert line.turns == ["a", "b", "c", "d"]


@pytest.mark.parametrize("state", [AdminState.DISABLED, AdminState.DRAINING, None])
async def test_nobody_waits_for_a_provider_out_of_service(state: AdminState | None) -> None:
    line = Line()
    await line.call("a")
    waiting = await line.call("b")
    line.slots.follow("default/p0", state and replace(provider(), admin_state=state))
    with pytest.raises(NotReady, match="takes no calls any more"):
        await asyncio.wait_for(waiting, PATIENCE)
    await line.done()
    assert not line.slots.full


async def test_a_caller_that_leaves_in_the_moment_in_which_it_is_sent_away_gives_nothing_back() -> None:
    line = Line()
    await line.call("a")
    gone = await line.call("b")
    line.slots.follow("default/p0", None)
    gone.cancel()
    await asyncio.wait([gone])
    assert line.slots.full == {"default/p0"}
    await line.done()
    assert not line.slots.full


async def test_a_turn_that_nobody_takes_leaves_room() -> None:
    line = Line()
    await line.call("a")
    gone = await line.call("b")
    line.slots.release("default/p0", 1.0)
    gone.cancel()
    await asyncio.wait([gone])
    assert not line.slots.full


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


async def busy(bench: Bench, upstream: ScriptedUpstream, **fields: Any) -> asyncio.Task[Any]:
    """One call hangs at the only slot of ``p0``."""
    upstream.script(Hang())
    bench.provider("p0", upstream.url, max_concurrency=1, **fields)
    task = asyncio.create_task(bench.ask(by_model()))
    await until(lambda: len(upstream.requests) == 1)
    return task


async def test_a_call_waits_for_its_slot_and_is_then_served(upstream: ScriptedUpstream) -> None:
    upstream.always(OK)
    async with benches() as bench:
        bench.model()
        first = await busy(bench, upstream)
        waiting = asyncio.create_task(bench.ask(by_model()))
        await until(lambda: bench.router.ledger.slots.waiting("default/p0") == 1)
        assert len(upstream.requests) == 1
        first.cancel()
        assert (await waiting).outcome.verdict.value == "complete"
        await bench.idle()
        assert not bench.router.ledger.slots.full


async def test_the_limit_holds_for_calls_by_provider_too(upstream: ScriptedUpstream) -> None:
    upstream.always(OK)
    async with benches() as bench:
        bench.model()
        first = await busy(bench, upstream)
        waiting = asyncio.create_task(bench.ask(by_provider()))
        await until(lambda: bench.router.ledger.slots.waiting("default/p0") == 1)
        first.cancel()
        await waiting


async def test_a_provider_with_room_is_tried_first_and_the_explanation_says_why(upstream: ScriptedUpstream) -> None:
    async with ScriptedUpstream(default=OK) as other, benches() as bench:
        targets = [
            vpb.RoutingTarget(upstream=vpb.UpstreamTarget(provider=f"default/p{n}", upstream_id="vendor/m"), tier=n)
            for n in range(2)
        ]
        bench.model(policy=vpb.ROUTING_POLICY_PRIORITY, targets=targets)
        first = await busy(bench, upstream)
        bench.provider("p1", other.url)
        request = rpb.ExplainRouteRequest(model=rpb.ModelTarget(workspace="default", name="chat"))
        answer = await explain(bench.router, bench.keeper, request, NOBODY)
        assert [(c.provider, c.reason) for c in answer.candidates] == [("default/p1", "policy"), ("default/p0", "full")]
        sink = await bench.ask(by_model(want_receipt=True))
        assert sink.got is not None
        assert sink.outcome is not None
        assert (sink.got.provider, sink.got.attempts) == ("default/p1", 1)
        assert replay(Receipt.FromString(sink.outcome.receipt)).same
        first.cancel()


async def test_a_call_that_ends_in_the_queue_has_sent_nothing(upstream: ScriptedUpstream) -> None:
    async with benches() as bench:
        bench.model()
        first = await busy(bench, upstream)
        with pytest.raises(UpstreamTimeout) as caught:
            await bench.ask(by_model(timeout=0.05))
        assert (caught.value.metadata[SENT], caught.value.metadata[ATTEMPTS]) == ("false", "0")
        assert bench.router.ledger.slots.waiting("default/p0") == 0
        first.cancel()


async def test_a_full_queue_is_the_gateways_own_error(upstream: ScriptedUpstream) -> None:
    async with benches(queue_limit=0) as bench:
        bench.model()
        first = await busy(bench, upstream)
        with pytest.raises(Overloaded) as caught:
            await bench.ask(by_model())
        assert caught.value.retry_after == 1.0
        assert (caught.value.metadata[SENT], caught.value.domain) == ("false", "junctor")
        first.cancel()


@pytest.mark.parametrize("route", [by_model, by_provider])
async def test_a_call_that_cannot_be_sent_takes_no_slot(upstream: ScriptedUpstream, route: Any) -> None:
    upstream.always(OK)
    async with benches() as bench:
        bench.provider("p0", upstream.url, max_concurrency=1)
        bench.model()
        for bad in ({"path": b"v1/../../x"}, {"headers": [(b"x-broken", b"a\nb")]}):
            with pytest.raises(MalformedRequest):
                await bench.ask(route(**bad))
            assert not bench.router.ledger.slots.full
        await bench.ask(route())


async def test_a_call_whose_provider_is_disabled_while_it_waits_goes_to_the_next(upstream: ScriptedUpstream) -> None:
    async with ScriptedUpstream(default=OK) as other, benches() as bench:
        bench.in_turn(upstream.url, other.url)
        first = await busy(bench, upstream)
        bench.provider("p1", other.url, max_concurrency=1)
        other.script(Hang())
        second = asyncio.create_task(bench.ask(by_model()))
        await other.request()
        waiting = asyncio.create_task(bench.ask(by_model(want_receipt=True)))
        slots = bench.router.ledger.slots
        await until(lambda: slots.waiting("default/p0") + slots.waiting("default/p1") == 1)
        bench.provider("p0", upstream.url, max_concurrency=1, admin_state=pb.ADMIN_STATE_DISABLED)
        second.cancel()
        sink = await waiting
        assert sink.got is not None
        assert (sink.got.provider, len(upstream.requests)) == ("default/p1", 1)
        first.cancel()


@pytest.mark.parametrize("hop", ["direct", "grpc"])
async def test_the_length_of_the_queue_is_a_setting(tmp_path: Path, upstream: ScriptedUpstream, hop: str) -> None:
    async with running(tmp_path, queue_limit="0", hop=hop) as cluster:
        await cluster.add_provider("up", upstream.url, max_concurrency=1)
        upstream.script(Hang(), path=CHAT)
        first = asyncio.create_task(cluster.http.post(CHAT, json=ASKED))
        await upstream.wait_for(lambda: upstream.requests[-1].target == CHAT)
        refused = await cluster.http.post(CHAT, json=ASKED)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.headers["x-junctor-error-source"] == "gateway"
        assert refused.json()["error"]["code"] == "overloaded"
        first.cancel()


async def test_a_caller_of_any_kind_leaves_the_queue_over_the_hop(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    request = typed.ChatCompletionRequest(model="default/test-model")
    request.messages.add(role="user").content.add(text="Hi")
    async with running(tmp_path, hop="grpc") as cluster:
        await cluster.add_provider("up", upstream.url, max_concurrency=1)
        router = cluster.node._router
        assert router is not None
        slots = router._router.ledger.slots
        upstream.script(Hang(), path=CHAT)
        first = asyncio.create_task(cluster.http.post(CHAT, json=ASKED))
        await upstream.wait_for(lambda: upstream.requests[-1].target == CHAT)
        asked, stub = len(upstream.requests), InferenceStub(cluster.channel)
        leaving: list[Any] = [asyncio.create_task(cluster.http.post(CHAT, json=ASKED))]
        leaving += [stub.CreateChatCompletion(request), stub.StreamChatCompletion(request)]
        await until(lambda: slots.waiting("default/up") == len(leaving))
        for call in leaving:
            call.cancel()
        await until(lambda: slots.waiting("default/up") == 0)
        assert len(upstream.requests) == asked
        first.cancel()
        await until(lambda: not slots.full)
        assert (await cluster.http.post(CHAT, json=ASKED)).status_code == 200
