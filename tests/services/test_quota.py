"""Shares of limits: what the service grants on either engine, and how routers live by it, without it, and after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from junctor.channel import Peer, open_peer
from junctor.errors import InvalidField, JunctorError, LimitExceeded, PeerUnavailable
from junctor.v1 import quota_pb2 as pb
from junctor.v1 import quota_pb2_grpc
from services.access.identity import Caller, Identity, Kind, Limits
from services.inference_router.limits import Hold, Limiter
from services.inference_router.limits_leases import ASK_SECONDS, Leases, declared_lease
from services.metering.quota import DEAD_SECONDS, SHARES, WINDOWS, QuotaStore, Wish
from services.metering.quota_servicer import QuotaServicer
from services.metering.store import MIGRATIONS
from services.runtime.auth import Access
from services.runtime.server import create_server
from tests.ports import free_port
from tests.stores import database, until

pytestmark = pytest.mark.usefixtures("engine")

NOW = 1_800_000_000.0
"""A whole minute."""
PATIENT = 30.0
"""Seconds that a call may wait for a lease where the test does not want it to give up."""


@dataclass
class Clock:
    """The time that windows go by."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


def wish(used: int, needed: int, wanted: int, *, window: str = "w", allowed: int = 100) -> Wish:
    return Wish(window, int(NOW) + 60, allowed, used, needed, wanted)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[QuotaStore]:
    async with database(tmp_path, "metering", MIGRATIONS) as opened:
        yield QuotaStore(opened, clock=Clock())


async def granted(store: QuotaStore, holder: str, number: int, *wishes: Wish) -> list[int]:
    return [grant.granted for grant in (await store.lease(holder, number, wishes))[0]]


async def test_what_all_hold_is_never_more_than_there_is(store: QuotaStore) -> None:
    asked = (store.lease(f"r{n}", 1, [wish(0, 7, 10), wish(0, 40, 40, window="v")]) for n in range(20))
    answers = [grants for grants, _ in await asyncio.gather(*asked)]
    assert [sum(grants[at].granted for grants in answers) for at in (0, 1)] == [100, 100]
    assert max(grants[0].taken for grants in answers) == 100


async def test_what_calls_wait_for_goes_before_what_is_wanted_ahead(store: QuotaStore) -> None:
    assert await granted(store, "a", 1, wish(0, 90, 100)) == [93]  # a quarter of what is left beyond what is needed
    assert await granted(store, "b", 1, wish(0, 7, 50)) == [7]


async def test_a_repeated_question_gets_the_same_and_an_old_one_changes_nothing(store: QuotaStore) -> None:
    assert await granted(store, "a", 2, wish(0, 30, 30)) == [30]
    assert await granted(store, "a", 2, wish(0, 30, 30)) == [30]
    assert await granted(store, "a", 1, wish(0, 90, 90)) == [30]
    assert await granted(store, "b", 1, wish(0, 100, 100)) == [70]


async def test_what_is_given_back_is_there_for_others_and_what_was_used_is_not(store: QuotaStore) -> None:
    assert await granted(store, "a", 1, wish(0, 60, 60)) == [60]
    assert await granted(store, "a", 2, wish(20, 20, 20)) == [20]
    grants, holders = await store.lease("b", 1, [wish(0, 100, 100)])
    assert (grants[0].granted, grants[0].used, grants[0].taken, holders) == (80, 20, 100, 2)


async def test_more_used_than_held_is_taken_from_what_is_left(store: QuotaStore) -> None:
    assert await granted(store, "a", 1, wish(0, 60, 60)) == [60]
    await store.lease("a", 2, [wish(75, 75, 75)])
    assert await granted(store, "b", 1, wish(0, 100, 100)) == [25]


async def test_a_share_is_not_cut_while_its_holder_may_be_using_it(store: QuotaStore) -> None:
    assert await granted(store, "a", 1, wish(0, 60, 60)) == [60]
    assert await granted(store, "a", 2, wish(0, 0, 60, allowed=10)) == [60]


async def test_a_holder_that_is_gone_holds_nothing_after_a_while(tmp_path: Path) -> None:
    clock = Clock()
    async with database(tmp_path, "metering", MIGRATIONS) as opened:
        store = QuotaStore(opened, clock=clock)
        assert await granted(store, "a", 1, wish(10, 60, 60)) == [60]
        clock.now += DEAD_SECONDS
        assert await granted(store, "b", 1, wish(0, 100, 100)) == [40]
        clock.now += 1
        assert await granted(store, "b", 2, wish(40, 100, 100)) == [90]
        assert (await store.lease("b", 3, []))[1] == 1


async def test_windows_that_are_long_over_are_removed(tmp_path: Path) -> None:
    clock = Clock()
    async with database(tmp_path, "metering", MIGRATIONS) as opened:
        store = QuotaStore(opened, clock=clock)
        await store.lease("a", 1, [wish(1, 1, 1)])
        clock.now += 3600
        assert await store.sweep() == 0
        clock.now += 61
        assert await store.sweep() == 1
        async with opened.read() as tx:
            left = [
                (await tx.execute(sa.select(sa.func.count()).select_from(each))).scalar() for each in (WINDOWS, SHARES)
            ]
        assert left == [0, 0]


def message(**fields: Any) -> pb.LeaseWish:
    made = pb.LeaseWish(**{"used": 0, "needed": 1, "wanted": 2} | fields)
    made.window.subject, made.window.unit, made.window.allowed = "key:k", pb.QUOTA_UNIT_REQUESTS, 5
    made.window.start.seconds, made.window.end.seconds = 60, 120
    return made


BAD: dict[str, tuple[Callable[[], pb.LeaseRequest], str]] = {
    "holder": (lambda: pb.LeaseRequest(lease_id=1), "holder"),
    "lease_id": (lambda: pb.LeaseRequest(holder="h"), "lease_id"),
    "order": (lambda: pb.LeaseRequest(holder="h", lease_id=1, wishes=[message(needed=3)]), "wishes[0].needed"),
    "negative": (lambda: pb.LeaseRequest(holder="h", lease_id=1, wishes=[message(used=-1)]), "wishes[0].used"),
    "twice": (lambda: pb.LeaseRequest(holder="h", lease_id=1, wishes=[message()] * 2), "wishes[1].window"),
    "empty": (lambda: pb.LeaseRequest(holder="h", lease_id=1, wishes=[pb.LeaseWish()]), "wishes[0].window.unit"),
    "many": (lambda: pb.LeaseRequest(holder="h", lease_id=1, wishes=[message()] * 1001), "wishes"),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_question_that_makes_no_sense_is_refused(store: QuotaStore, case: str) -> None:
    make, named = BAD[case]
    with pytest.raises(InvalidField) as refused:
        await QuotaServicer(store).Lease(make(), None)
    assert named in {violation.field for violation in refused.value.violations}


@dataclass
class Rig:
    """Routers' limiters on one quota service that can be stopped and started again."""

    store: QuotaStore
    stack: AsyncExitStack
    port: int = field(default_factory=free_port)
    clock: Clock = field(default_factory=Clock)
    server: Any = None
    leases: list[Leases] = field(default_factory=list)

    async def serve(self) -> None:
        self.server = create_server(policy={"junctor.v1.Quota": Access.PUBLIC}, token=None)
        self.server.add(quota_pb2_grpc.add_QuotaServicer_to_server, QuotaServicer(self.store))
        await self.server.start("127.0.0.1", self.port)

    async def away(self) -> None:
        if self.server is not None:
            await self.server.stop(5)  # what is asked is answered: a cut transaction outlives its test
        self.server = None

    async def router(self, *, patience: float = PATIENT, fail_open: bool = True) -> Limiter:
        limiter = Limiter(clock=self.clock, patience=patience, fail_open=fail_open)
        peer: Peer = open_peer(f"127.0.0.1:{self.port}", name="metering")
        self.stack.push_async_callback(peer.close)
        leases = Leases(limiter, peer, pauses=_shortened)
        limiter.lessor = leases
        self.leases.append(leases)
        task = asyncio.create_task(leases.run())
        self.stack.push_async_callback(_ended, task)
        return limiter


def _shortened(seconds: float) -> float:
    """Shorten pauses, but not the time that an answer may take: this machine may be busy."""
    return PATIENT if seconds == ASK_SECONDS else seconds / 20


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def rigs(store: QuotaStore) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        rig = Rig(store, stack)
        try:
            await rig.serve()
            yield rig
        finally:
            await stack.aclose()
            await rig.away()


def caller(**limits: Any) -> Caller:
    return Caller(Identity(Kind.KEY, "key-1"), limits=Limits(**limits))


async def admitted(limiter: Limiter, who: Caller, tokens: int = 0) -> Hold | JunctorError:
    try:
        return await limiter.admit(who, "lab", tokens=tokens, cost=None)
    except JunctorError as error:
        return error


@pytest.mark.parametrize("routers", [1, 3, 6])
async def test_together_routers_let_no_more_in_than_the_limit(store: QuotaStore, routers: int) -> None:
    async with rigs(store) as rig:
        limiters = [await rig.router() for _ in range(routers)]
        who = caller(requests_per_minute=200, tokens_per_minute=100_000)
        ended = await asyncio.gather(*(admitted(limiters[n % routers], who, 10) for n in range(500)))
        holds = [each for each in ended if isinstance(each, Hold)]
        assert 190 <= len(holds) <= 200  # the last shares may lie with a router that has no more calls
        refused = [each for each in ended if isinstance(each, LimitExceeded)]
        assert len(refused) == 500 - len(holds)
        assert {error.metadata["limit"] for error in refused} == {"requests_per_minute"}


async def test_most_calls_need_no_question(store: QuotaStore) -> None:
    async with rigs(store) as rig:
        limiter = await rig.router()
        who = caller(requests_per_minute=2_000)
        for _ in range(1_000):
            await limiter.admit(who, "lab", tokens=0, cost=None)
            await asyncio.sleep(0)
        assert rig.leases[0]._number < 200


async def test_what_was_not_used_is_there_for_another_router(store: QuotaStore) -> None:
    async with rigs(store) as rig:
        first, second = [await rig.router() for _ in range(2)]
        who = caller(tokens_per_minute=1_000)
        hold = await first.admit(who, "lab", tokens=900, cost=None)
        first.settle(hold, requests=1, tokens=100, cost=0)
        assert isinstance(await admitted(second, who, 900), Hold)
        assert isinstance(await admitted(first, who, 1), LimitExceeded)


async def test_a_router_that_ends_gives_back_what_it_holds(store: QuotaStore) -> None:
    async with rigs(store) as rig:
        first, second = [await rig.router() for _ in range(2)]
        who = caller(requests_per_minute=128)
        await first.admit(who, "lab", tokens=0, cost=None)
        await rig.leases[0].give_back()
        ended = await asyncio.gather(*(admitted(second, who) for _ in range(200)))
        assert sum(isinstance(each, Hold) for each in ended) == 127


async def test_tokens_beyond_what_was_reserved_are_taken_from_all(store: QuotaStore) -> None:
    async with rigs(store) as rig:
        first, second = [await rig.router() for _ in range(2)]
        who = caller(tokens_per_minute=1_000)
        hold = await first.admit(who, "lab", tokens=100, cost=None)
        first.settle(hold, requests=1, tokens=1_500, cost=0)

        async def told() -> bool:
            return isinstance(await admitted(second, who, 1), LimitExceeded)

        await until(told)


async def test_open_goes_on_with_an_even_share_and_tells_later(store: QuotaStore) -> None:
    async with rigs(store) as rig:
        routers = [await rig.router() for _ in range(2)]
        who = caller(requests_per_minute=100)
        for limiter in routers:
            await limiter.admit(who, "lab", tokens=0, cost=None)
        await until(lambda: routers[0].holders == 2)
        await rig.away()
        ended = [[await admitted(limiter, who) for _ in range(70)] for limiter in routers]
        assert [sum(isinstance(each, Hold) for each in each_router) for each_router in ended] == [49, 49]
        rig.clock.now += 60  # a window of which nobody holds anything
        assert isinstance(await admitted(routers[0], who), Hold)
        await rig.serve()
        await until(lambda: not rig.leases[0].down)
        third = await rig.router()
        ended = [await asyncio.gather(*(admitted(third, who) for _ in range(120)))]
        assert sum(isinstance(each, Hold) for each in ended[0]) <= 99


async def test_routers_know_of_one_another_before_a_call_has_a_limit(store: QuotaStore) -> None:
    async with rigs(store) as rig:
        routers = [await rig.router() for _ in range(3)]
        await until(lambda: [limiter.holders for limiter in routers] == [3, 3, 3])
        await rig.away()
        who = caller(requests_per_minute=90)
        ended = [await admitted(limiter, who) for limiter in routers for _ in range(60)]
        assert sum(isinstance(each, Hold) for each in ended) == 90


async def test_closed_refuses_and_recovers(store: QuotaStore) -> None:
    async with rigs(store) as rig:
        await rig.away()
        limiter = await rig.router(fail_open=False)
        who = caller(requests_per_minute=100)
        refused = await admitted(limiter, who)
        assert isinstance(refused, PeerUnavailable)
        assert refused.retry_after == 1.0
        await rig.serve()
        await until(lambda: not rig.leases[0].down)
        assert isinstance(await admitted(limiter, who), Hold)


async def test_a_service_that_says_nothing_is_waited_for_within_bounds(store: QuotaStore) -> None:
    async with rigs(store) as rig:
        limiter = await rig.router(patience=0.01)
        await rig.away()
        silent = await asyncio.start_server(_say_nothing, "127.0.0.1", rig.port)
        try:
            assert isinstance(await admitted(limiter, caller(requests_per_minute=3)), Hold)
        finally:
            silent.close()


async def _say_nothing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def test_a_call_that_is_cancelled_while_it_waits_leaves_nothing(store: QuotaStore) -> None:
    async with rigs(store) as rig:
        await rig.away()
        limiter = await rig.router()
        limiter.workspaces = {"lab": Limits(requests_per_minute=3, concurrency=1)}
        waiting = asyncio.create_task(admitted(limiter, caller()))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert limiter._subjects["workspace:lab"].running == 0
        assert limiter.needs() == {}


def test_the_declared_lease_is_an_eighth_of_the_window() -> None:
    assert [declared_lease(allowed) for allowed in (1, 8, 80_000)] == [1, 1, 10_000]
