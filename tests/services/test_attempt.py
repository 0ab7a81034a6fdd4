"""The loop of discovery and single attempts, on a real store, with the other ends in the test's hand."""

import asyncio
from contextlib import suppress

import pytest_asyncio
from sqlalchemy import event

from junctor.v1 import provider_registry_pb2 as pb
from services.provider_registry.attempt import Attempts, Pace
from services.provider_registry.discovery import Discovery
from services.provider_registry.discovery_client import DiscoveryFailed
from services.provider_registry.schedule import DISCOVERY, Schedule, now_microseconds
from services.provider_registry.secret_store import SecretStore
from services.provider_registry.secrets import Keyring
from services.provider_registry.store import MIGRATIONS, ProviderStore
from services.runtime.changes import Feed
from services.runtime.db import open_database
from tests.provider_plane import until

LONG = 3_600_000_000


class Lister:
    """Answers with ``ids``, or fails."""

    def __init__(self, ids=None):
        self.ids = ids

    async def list_ids(self, provider, key, certificate):
        if self.ids is None:
            raise DiscoveryFailed("it answered 500")
        return self.ids


class Sync:
    """Takes everything."""

    def __init__(self):
        self.settled = []

    async def put(self, provider, ticket, models, *, workspace_id, settled):
        self.settled.append(settled)
        return True


class Gated:
    """Attempts that last until the test lets one go on."""

    def __init__(self):
        self.running = []
        self.most = 0
        self.gate = asyncio.Semaphore(0)

    async def run(self, claim):
        self.running.append(claim.name)
        self.most = max(self.most, len(self.running))
        await self.gate.acquire()
        self.running.remove(claim.name)


@pytest_asyncio.fixture
async def store(tmp_path):
    database = open_database(f"sqlite:///{tmp_path / 'store.sqlite'}", schema="provider_registry")
    await database.migrate(MIGRATIONS)
    yield ProviderStore(Feed(database), Schedule(database))
    await database.close()


async def add(store, name, **fields):
    return await store.create(
        pb.Provider(workspace="default", name=name, host_url="http://h", status=pb.PROVIDER_STATUS_CREATED, **fields)
    )


async def claim(store):
    (claimed,) = await store.schedule.claim("me", limit=1, lease=LONG)
    return claimed


def attempts(store, tmp_path, lister):
    keys = SecretStore(store.feed, Keyring.load_or_create(tmp_path / "secret.key"), store.schedule)
    return Attempts(store, keys, lister=lister, sync=Sync(), pace=Pace())


async def test_a_result_that_was_overtaken_by_a_change_is_thrown_away(store, tmp_path):
    await add(store, "a1")
    old = await claim(store)
    async with store.transaction() as tx:
        current = await store.fetch(tx, "default", "a1")
        changed = await store.reconfigure(tx, current, lambda p: setattr(p, "host_url", "http://new"))
    await attempts(store, tmp_path, Lister(["m1"])).run(old)
    await attempts(store, tmp_path, Lister()).run(old)
    assert await store.get("default", "a1") == changed
    assert (await store.schedule.next_due()) <= now_microseconds()


async def test_a_result_for_a_deleted_or_recreated_provider_is_thrown_away(store, tmp_path):
    await add(store, "a1")
    old = await claim(store)
    await store.delete("default", "a1")
    await attempts(store, tmp_path, Lister(["m1"])).run(old)
    again = await add(store, "a1")
    await attempts(store, tmp_path, Lister(["m1"])).run(old)
    assert await store.get("default", "a1") == again


async def test_time_in_which_nobody_tried_does_not_count_as_failing(store, tmp_path):
    await add(store, "a1")
    async with store.transaction() as tx:
        await tx.execute(DISCOVERY.update().values(changed_at=now_microseconds() - LONG))
    await attempts(store, tmp_path, Lister()).run(await claim(store))
    provider = await store.get("default", "a1")
    assert (provider.status, provider.status_message) == (
        pb.PROVIDER_STATUS_CREATED,
        "Provider discovery failed: it answered 500",
    )


async def test_failures_are_counted_and_the_next_attempt_comes_within_ten_seconds(store, tmp_path):
    await add(store, "a1")
    tries = attempts(store, tmp_path, Lister())
    for count in range(8):
        claimed = await claim(store)
        assert claimed.failures == count
        await tries.run(claimed)
        due = await store.schedule.next_due()
        assert due <= now_microseconds() + 11_000_000
        async with store.transaction() as tx:
            await tx.execute(DISCOVERY.update().values(next_attempt=0))


async def test_no_more_attempts_run_at_a_time_than_allowed(store):
    for number in range(5):
        await add(store, f"up{number}")
    gated = Gated()
    loop = asyncio.create_task(Discovery(store.schedule, store.feed, gated, concurrency=2).run())
    try:
        await until(lambda: len(gated.running) >= 2)
        for _ in range(3):
            store.feed.notify()
            gated.gate.release()
            await until(lambda: len(gated.running) >= 2)
    finally:
        loop.cancel()
        with suppress(asyncio.CancelledError):
            await loop
    assert gated.most == 2


async def test_providers_that_a_dead_process_held_are_discovered_at_once_after_a_restart(store):
    await add(store, "a1")
    await store.schedule.claim("dead", limit=1, lease=LONG)
    gated = Gated()
    loop = asyncio.create_task(Discovery(store.schedule, store.feed, gated, concurrency=2).run())
    try:
        await until(lambda: gated.running == ["a1"])
    finally:
        loop.cancel()
        with suppress(asyncio.CancelledError):
            await loop
    assert len(await store.schedule.claim("next", limit=1, lease=LONG)) == 1


async def again(store):
    """Make everything due and claim it."""
    async with store.transaction() as tx:
        await tx.execute(DISCOVERY.update().values(next_attempt=0))
    return await store.schedule.claim("me", limit=9, lease=LONG)


async def test_a_set_counts_as_settled_once_it_was_put_since_the_last_change(store, tmp_path):
    await add(store, "a1")
    tries = attempts(store, tmp_path, Lister(["m1"]))
    for _ in range(3):
        (claimed,) = await again(store)
        await tries.run(claimed)
    async with store.transaction() as tx:
        current = await store.fetch(tx, "default", "a1")
        await store.reconfigure(tx, current, lambda p: setattr(p, "host_url", "http://new"))
    for _ in range(2):
        (claimed,) = await again(store)
        await tries.run(claimed)
    assert tries._sync.settled == [False, True, True, False, True]


async def test_outcomes_that_change_nothing_are_recorded_together_and_take_no_revision(store, tmp_path):
    for number in range(5):
        await add(store, f"a{number}")
    tries = attempts(store, tmp_path, Lister(["m1"]))
    await asyncio.gather(*[tries.run(claimed) for claimed in await again(store)])
    before = [await store.get("default", f"a{number}") for number in range(5)]
    claims, written = await again(store), []
    engine = store.feed.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", lambda *given: written.append(given[2]))
    await asyncio.gather(*[tries.run(claimed) for claimed in claims])
    assert sum("UPDATE discovery" in statement for statement in written) == 1
    assert [await store.get("default", f"a{number}") for number in range(5)] == before
    assert (await store.schedule.next_due()) > now_microseconds()


async def test_providers_that_are_away_leave_room_for_the_others(store, tmp_path):
    for number in range(4):
        await add(store, f"away{number}")
    tries = attempts(store, tmp_path, Lister())
    await asyncio.gather(*[tries.run(claimed) for claimed in await again(store)])
    await again(store)
    await store.schedule.release("me")
    gated = Gated()
    loop = asyncio.create_task(Discovery(store.schedule, store.feed, gated, concurrency=4).run())
    try:
        await until(lambda: len(gated.running) == 2)
        await add(store, "new")
        await until(lambda: "new" in gated.running)
        assert len(gated.running) == 3  # two of those that are away, however many are due
    finally:
        loop.cancel()
        with suppress(asyncio.CancelledError):
            await loop
