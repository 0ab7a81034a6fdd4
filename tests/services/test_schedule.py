"""The schedule of discovery: one process at a time on a provider, and old work thrown away."""

import pytest
import pytest_asyncio

from junctor.v1 import provider_registry_pb2 as pb
from services.provider_registry.schedule import DISCOVERY, Outcome, Schedule, now_microseconds
from services.provider_registry.store import MIGRATIONS, ProviderStore
from services.runtime.changes import Feed
from tests.stores import open_store

pytestmark = pytest.mark.usefixtures("engine")
LONG = 60_000_000


@pytest_asyncio.fixture
async def store(tmp_path):
    database = open_store(tmp_path, "provider_registry")
    await database.migrate(MIGRATIONS)
    yield ProviderStore(Feed(database), Schedule(database))
    await database.close()


async def add(store, *names):
    return [await store.create(pb.Provider(workspace="default", name=name, host_url="http://h")) for name in names]


async def finish(store, claim, **changes):
    values = {"tried_at": now_microseconds(), "next_attempt": now_microseconds() + LONG, "failures": 0, "held": False}
    async with store.transaction() as tx:
        current = await store.schedule.is_current(tx, claim)
        await store.schedule.finish_all(tx, [Outcome(claim, **(values | changes))])
    return current


def names_of(claims):
    return sorted(claim.name for claim in claims)


async def test_a_claimed_provider_is_not_given_to_another_holder(store):
    await add(store, "a1", "b1", "c1")
    first = await store.schedule.claim("one", limit=2, lease=LONG)
    second = await store.schedule.claim("two", limit=2, lease=LONG)
    assert (len(first), len(second)) == (2, 1)
    assert names_of([*first, *second]) == ["a1", "b1", "c1"]
    assert await store.schedule.claim("two", limit=2, lease=LONG) == []


async def test_a_lease_that_ran_out_is_taken_over_and_the_late_work_thrown_away(store):
    await add(store, "a1")
    (late,) = await store.schedule.claim("one", limit=1, lease=-1)
    (taken,) = await store.schedule.claim("two", limit=1, lease=LONG)
    assert taken.ticket > late.ticket
    assert not await finish(store, late)
    assert await store.schedule.claim("one", limit=1, lease=LONG) == []
    assert await finish(store, taken)


async def test_a_finished_provider_is_due_when_it_was_planned(store):
    (provider,) = await add(store, "a1")
    (claim,) = await store.schedule.claim("one", limit=1, lease=LONG)
    at = now_microseconds() + LONG
    await finish(store, claim, tried_at=at - 1, next_attempt=at, failures=3)
    assert await store.schedule.next_due() == at
    assert await store.schedule.claim("one", limit=1, lease=LONG) == []
    read = await store.get_with_attempts("default", "a1")
    assert (read.last_attempt.ToMicroseconds(), read.next_attempt.ToMicroseconds()) == (at - 1, at)
    assert read.resource_version == provider.resource_version
    async with store.transaction() as tx:
        await store.schedule.demand(tx, provider)
    (again,) = await store.schedule.claim("one", limit=1, lease=LONG)
    assert again.failures == 0


async def test_a_change_during_an_attempt_makes_the_provider_due_at_once(store):
    await add(store, "a1")
    (claim,) = await store.schedule.claim("one", limit=1, lease=LONG)
    async with store.transaction() as tx:
        current = await store.fetch(tx, "default", "a1")
        await store.reconfigure(tx, current, lambda provider: setattr(provider, "host_url", "http://new"))
    assert not await finish(store, claim)
    (again,) = await store.schedule.claim("one", limit=1, lease=LONG)
    assert again.ticket > claim.ticket
    assert again.changed_at > claim.changed_at


async def test_what_a_dead_process_held_can_be_released(store):
    await add(store, "a1")
    await store.schedule.claim("dead", limit=1, lease=LONG)
    await store.schedule.release("another")
    assert await store.schedule.claim("one", limit=1, lease=LONG) == []
    await store.schedule.release(None)
    assert names_of(await store.schedule.claim("one", limit=1, lease=LONG)) == ["a1"]


async def test_what_the_store_cut_short_is_given_back_unless_something_has_happened_to_it(store):
    _, changed = await add(store, "a1", "b1")
    cut = await store.schedule.claim("one", limit=2, lease=LONG)
    async with store.transaction() as tx:
        await store.schedule.demand(tx, changed)
    (taken,) = await store.schedule.claim("two", limit=2, lease=LONG)
    await store.schedule.give_back(cut)
    assert names_of(await store.schedule.claim("three", limit=2, lease=LONG)) == ["a1"]
    assert await finish(store, taken)


async def test_tickets_grow_although_the_clock_went_back(store):
    await add(store, "a1")
    ahead = now_microseconds() + 10 * LONG
    async with store.transaction() as tx:
        await tx.execute(DISCOVERY.update().values(ticket=ahead))
    (claim,) = await store.schedule.claim("one", limit=1, lease=LONG)
    assert claim.ticket == ahead + 1


async def test_a_tombstone_has_a_newer_ticket_than_any_attempt(store):
    (provider,) = await add(store, "a1")
    (claim,) = await store.schedule.claim("one", limit=1, lease=LONG)
    await store.delete("default", "a1")
    (tombstone,) = await store.schedule.tombstones(limit=10)
    assert (tombstone.provider_id, tombstone.name) == (provider.id, "a1")
    assert tombstone.ticket > claim.ticket
    assert not await finish(store, claim)
    await store.schedule.forget([tombstone])
    assert await store.schedule.tombstones(limit=10) == []


async def test_only_the_users_of_a_secret_become_due_when_it_changes(store):
    for name, secret in (("a1", "k1"), ("b1", "k2"), ("c1", "")):
        await store.create(pb.Provider(workspace="default", name=name, host_url="http://h", api_key_secret_name=secret))
    for claim in await store.schedule.claim("one", limit=3, lease=LONG):
        await finish(store, claim)
    async with store.transaction() as tx:
        await store.schedule.demand_users(tx, "system", "k1")
        await store.schedule.demand_users(tx, "default", "k2")
    assert names_of(await store.schedule.claim("one", limit=3, lease=LONG)) == ["b1"]


async def test_a_status_by_hand_puts_discovery_off_and_overtakes_what_is_under_way(store):
    (provider,) = await add(store, "a1")
    (claim,) = await store.schedule.claim("one", limit=1, lease=LONG)
    until = now_microseconds() + LONG
    async with store.transaction() as tx:
        ticket = await store.schedule.draw(tx, provider.id, not_before=until)
        assert await store.schedule.hold(tx, provider.id, ticket)
        assert not await store.schedule.hold(tx, provider.id, claim.ticket)
    assert not await finish(store, claim)
    assert await store.schedule.next_due() == until
