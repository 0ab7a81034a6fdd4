"""Two whole replicas of the provider registry on one PostgreSQL: one of them at a time discovers a provider."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from junctor.channel import Peer, open_peer
from junctor.v1 import provider_registry_pb2 as pb
from junctor.v1 import secrets_pb2, secrets_pb2_grpc
from services.provider_registry.schedule import DISCOVERY
from services.runtime.db import open_database
from tests.cluster import until
from tests.e2e.processes import PATIENCE, Process, free_port
from tests.e2e.registries import Registries, Resource, insist, registries, resource
from tests.upstream import OpenAI, Received, ScriptedUpstream, Wire

INTERVAL = 1
PROVIDERS = 6
ROUNDS = 40
CREATED, READY = pb.PROVIDER_STATUS_CREATED, pb.PROVIDER_STATUS_READY
GROUPS = (("access-control", "model-registry"), ("provider-registry",))


@dataclass
class Pair:
    """The first replica is the one of ``running``."""

    running: Registries
    processes: tuple[Process, Process]
    peers: tuple[Peer, Peer]

    def providers(self, replica: int) -> Resource:
        return resource("provider", {"provider-registry": self.peers[replica]})

    async def both_hold(self) -> bool:
        """Tell whether each replica works on some provider, and all providers are being worked on."""
        rows = await self.running.rows("provider-registry", sa.select(DISCOVERY.c.holder))
        holders = {row.holder for row in rows}
        return len(holders) == 2 and "" not in holders

    async def holder(self, name: str) -> str:
        """The replica that works on a provider; empty: none does."""
        held = sa.select(DISCOVERY.c.holder).where(DISCOVERY.c.name == name)
        return str((await self.running.rows("provider-registry", held))[0].holder)

    async def let_leases_run_out(self, *, but: str) -> None:
        """Do to the leases of other holders what the time that they last would do."""
        database = open_database(self.running.store("provider-registry"), schema="provider_registry")
        try:
            async with database.write() as tx:
                await tx.execute(sa.update(DISCOVERY).where(DISCOVERY.c.holder != but).values(lease_until=1))
        finally:
            await database.close()


@asynccontextmanager
async def pair(folder: Path, url: str) -> AsyncIterator[Pair]:
    """Both replicas, and the other registries once."""
    more = {"JUNCTOR_DISCOVERY_INTERVAL": str(INTERVAL)}
    async with registries(folder, database_url=url, groups=GROUPS, **more) as running, AsyncExitStack() as stack:
        first = running.deployment.processes["provider-registry"]
        port = free_port()
        command = ("provider-registry", "--grpc-port", str(port), "--data-dir", "data")
        second = Process("junctord", *command, folder=folder / "second", environ={**first.environ, "HOME": str(folder)})
        second.environ["JUNCTOR_SECRET_KEY_FILE"] = first.environ["JUNCTOR_SECRET_KEY_FILE"] = str(folder / "key")
        stack.push_async_callback(second.kill)
        await second.start()
        peer = open_peer(f"127.0.0.1:{port}", name="the second replica")
        stack.push_async_callback(peer.close)
        await peer.ready(PATIENCE)
        yield Pair(running, (first, second), (running.peers["provider-registry"], peer))


async def all_ready(pair: Pair, replica: int) -> None:
    providers = pair.providers(replica)

    async def reached() -> bool:
        return all([(await providers.get(f"p{n}")).status == READY for n in range(PROVIDERS)])

    await until(reached, seconds=PATIENCE)


class Listing:
    """Answers model lists, and notes when a provider is asked by two at a time. Answers while ``answering`` is set."""

    def __init__(self) -> None:
        self.answering = asyncio.Event()
        self.answering.set()
        self.asked: Counter[str] = Counter()
        self.overlaps: list[str] = []
        self._now: Counter[str] = Counter()
        self._answer = OpenAI()

    async def play(self, received: Received, wire: Wire) -> None:
        target = received.target.removesuffix("/v1/models")
        self._now[target] += 1
        if self._now[target] > 1:
            self.overlaps.append(target)
        try:
            await asyncio.sleep(0.05)  # time for another one to come
            await self.answering.wait()
            await self._answer.play(Received("GET", "/v1/models", received.headers, b"", received.connection), wire)
        finally:
            self._now[target] -= 1
            self.asked[target] += 1

    async def every_one_is_asked(self) -> None:
        """Wait until each provider has been asked, and answered, again."""
        before = self.asked.copy()
        names = [f"/p{number}" for number in range(PROVIDERS)]
        await until(lambda: _true(all(self.asked[name] > before[name] for name in names)), seconds=PATIENCE)


async def _true(value: bool) -> bool:
    return value


async def test_providers_are_discovered_by_one_replica_at_a_time_whoever_dies(
    tmp_path: Path, postgres_url: str, upstream: ScriptedUpstream
) -> None:
    listing = Listing()
    upstream.always(listing)
    async with pair(tmp_path, postgres_url) as both:

        async def create(name: str, replica: int) -> None:
            fields: dict[str, Any] = {"host_url": f"{upstream.url}/{name}"}
            await insist(lambda: both.providers(replica).create(name, "mine", **fields))

        for number in range(PROVIDERS):
            await create(f"p{number}", number % 2)
        for replica in (0, 1):
            await all_ready(both, replica)
        await listing.every_one_is_asked()

        listing.answering.clear()
        await until(both.both_hold, seconds=PATIENCE)
        await both.processes[0].kill()  # in the midst of its attempts
        await create("late", 1)
        await until(lambda: claimed(both, "late"), seconds=PATIENCE)
        survivor = await both.holder("late")
        listing.answering.set()
        await both.let_leases_run_out(but=survivor)
        await listing.every_one_is_asked()  # taken over from the dead one
        await all_ready(both, 1)

        await both.processes[0].start()
        await both.peers[0].ready(PATIENCE)
        both.processes[1].send(signal.SIGTERM)
        assert await both.processes[1].ended() == 0
        await listing.every_one_is_asked()
        await all_ready(both, 0)
        assert listing.overlaps == []
        names = ["late", *(f"p{number}" for number in range(PROVIDERS))]
        assert await statuses(both) == {name: [CREATED, READY] for name in names}


async def claimed(both: Pair, name: str) -> bool:
    return bool(await both.holder(name))


async def statuses(both: Pair) -> dict[str, list[int]]:
    """The statuses that each provider went through, one after the other."""
    found: dict[str, list[int]] = {}
    for row in await both.running.log("provider-registry"):
        provider = pb.Provider.FromString(row.body)
        steps = found.setdefault(provider.name, [])
        if steps[-1:] != [provider.status]:
            steps.append(provider.status)
    return found


async def test_changes_and_discovery_at_the_same_time_never_wait_for_one_another_for_ever(
    tmp_path: Path, postgres_url: str, upstream: ScriptedUpstream
) -> None:
    """One secret makes all providers due, in each replica, while both claim, record and are written to."""
    async with pair(tmp_path, postgres_url) as both:
        secrets = [resource("secret", {"provider-registry": peer}) for peer in both.peers]
        await insist(lambda: secrets[0].create("key", "mine"))
        for number in range(4 * PROVIDERS):
            fields: dict[str, Any] = {"host_url": upstream.url, "api_key_secret_name": "key"}
            await both.providers(number % 2).create(f"p{number}", "mine", **fields)

        async def change_values(replica: int) -> None:
            stub = secrets_pb2_grpc.SecretStoreStub(both.peers[replica].channel)
            for turn in range(ROUNDS):
                request = secrets_pb2.UpdateSecretRequest(workspace="default", name="key", value=f"{replica}-{turn}")
                await both.peers[replica].call(stub.UpdateSecret, request)

        async def change_providers(replica: int) -> None:
            for turn in range(ROUNDS):
                await both.providers(replica).update(f"p{turn % (4 * PROVIDERS)}", f"{replica} {turn}")

        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(work(replica) for work in (change_values, change_providers) for replica in (0, 1)))
        await all_ready(both, 0)
        assert all("deadlock" not in process.stderr for process in both.processes)
