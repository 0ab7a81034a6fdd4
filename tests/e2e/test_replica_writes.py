"""Two replicas of every registry on one PostgreSQL: what one acknowledges, the other has, tells and can decrypt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from junctor.channel import Peer, open_peer
from junctor.v1 import secrets_pb2 as pb
from junctor.v1 import secrets_pb2_grpc
from services.runtime.auth import load_or_create_token, token_metadata
from tests.cluster import until
from tests.e2e.processes import PATIENCE, Process, free_port
from tests.e2e.registries import REGISTRIES, Resource, migrate, resource
from tests.e2e.writing import KINDS, follow

TURNS = 10
MARK = "sk-nobody-must-see-this"
IDLE = 120
"""Secrets that nobody touches: more than fit into one transaction of the rotation."""


@asynccontextmanager
async def replicas(folder: Path, url: str) -> AsyncIterator[list[tuple[Process, Peer]]]:
    """Two processes, each with every registry, and a way to each that shows the service token."""
    await migrate(folder, url)
    token, found = folder / "service.token", []
    environ = {
        "JUNCTOR_DATABASE_URL": url,
        "JUNCTOR_SECRET_KEY_FILE": str(folder / "secret.key"),
        "JUNCTOR_SERVICE_TOKEN_FILE": str(token),
        "JUNCTOR_SEED": "false",
        "JUNCTOR_UPSTREAM_NETWORKS": "public,private,loopback",
        "JUNCTOR_LOG_LEVEL": "debug",
    }
    metadata = token_metadata(load_or_create_token(token))
    async with AsyncExitStack() as stack:
        for number in range(2):
            port = free_port()
            command = (*REGISTRIES, "--grpc-port", str(port), "--data-dir", "data")
            process = Process("junctord", *command, folder=folder / f"replica{number}", environ=environ)
            stack.push_async_callback(process.kill)
            await process.start()
            peer = open_peer(f"127.0.0.1:{port}", name=f"replica {number}", metadata=metadata)
            stack.push_async_callback(peer.close)
            await peer.ready(PATIENCE)
            found.append((process, peer))
        yield found


async def true(value: bool) -> bool:
    return value


async def test_what_one_replica_acknowledges_the_other_has_and_tells(tmp_path: Path, postgres_url: str) -> None:
    async with replicas(tmp_path, postgres_url) as both, asyncio.TaskGroup() as group:
        for kind in KINDS:
            sides = [resource(kind, dict.fromkeys(REGISTRIES, peer)) for _, peer in both]
            group.create_task(cross(sides))


async def cross(sides: list[Resource]) -> None:
    """Write through each replica in turn, read through the other, and watch both."""
    seen: list[list[tuple[int, str, bool]]] = [[], []]
    synced = [asyncio.Event(), asyncio.Event()]
    watchers = [asyncio.create_task(follow(sides[n], seen[n], synced[n])) for n in range(2)]
    try:
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(event.wait() for event in synced))
        expected = []
        for turn in range(TURNS):
            expected += await lived(sides[turn % 2], sides[1 - turn % 2], turn)
        await until(lambda: true(told(seen[0]) >= set(expected) and seen[0] == seen[1]), seconds=PATIENCE)
        if sides[0].kind != "provider":  # discovery writes these as well
            assert [change[1:] for change in seen[0]] == expected
    finally:
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)


def told(seen: list[tuple[int, str, bool]]) -> set[tuple[str, bool]]:
    return {change[1:] for change in seen}


async def lived(one: Resource, other: Resource, turn: int) -> list[tuple[str, bool]]:
    """Write one resource through both replicas; returns what a watcher must see of it."""
    name = f"made-{turn}"
    made = await one.create(name, "new")
    assert (await other.get(name)).id == made.id
    await other.update(name, "changed")
    assert (await one.get(name)).description == "changed"
    if turn % 2 == 0:
        return [(name, False), (name, False)]
    await one.delete(name)
    return [(name, False), (name, False), (name, True)]


@asynccontextmanager
async def over_and_over(*works: Callable[[int], Awaitable[None]]) -> AsyncIterator[list[int]]:
    """Do each work again and again within the block; yields how often each was done."""
    counts, over = [0] * len(works), asyncio.Event()

    async def repeat(number: int) -> None:
        while not over.is_set():
            await works[number](counts[number])
            counts[number] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(len(works)):
            group.create_task(repeat(number))
        try:
            yield counts
        finally:
            over.set()


class Secrets:
    """The secrets of ``default`` through either replica."""

    def __init__(self, both: list[tuple[Process, Peer]]) -> None:
        self._peers = [peer for _, peer in both]
        self._stores = [secrets_pb2_grpc.SecretStoreStub(peer.channel) for peer in self._peers]
        self._access = [secrets_pb2_grpc.SecretAccessStub(peer.channel) for peer in self._peers]

    async def create(self, replica: int, name: str, value: str) -> None:
        request = pb.CreateSecretRequest(secret=pb.Secret(workspace="default", name=name), value=value)
        await self._peers[replica].call(self._stores[replica].CreateSecret, request)

    async def change(self, replica: int, name: str, value: str) -> None:
        request = pb.UpdateSecretRequest(workspace="default", name=name, value=value)
        await self._peers[replica].call(self._stores[replica].UpdateSecret, request)

    async def value(self, replica: int, name: str) -> str:
        request = pb.AccessSecretRequest(workspace="default", name=name)
        return str((await self._peers[replica].call(self._access[replica].AccessSecret, request)).value)

    def work(self, replica: int) -> Callable[[int], Awaitable[None]]:
        """Change a secret through one replica, read it and an idle one through the other."""

        async def once(turn: int) -> None:
            await self.change(replica, f"of-{replica}", f"{MARK}-{replica}-{turn}")
            assert await self.value(1 - replica, f"of-{replica}") == f"{MARK}-{replica}-{turn}"
            assert await self.value(turn % 2, f"idle-{turn % IDLE}") == f"{MARK}-{turn % IDLE}"

        return once


async def rotate(folder: Path, url: str) -> None:
    environ = {"JUNCTOR_SECRET_KEY_FILE": str(folder / "secret.key")}
    command = ("junctor", "admin", "rotate-keys", "--database-url", url, "--data-dir", "data")
    rotation = Process(*command, folder=folder / "rotation", environ=environ)
    assert await rotation.run() == 0, rotation.stderr


async def test_keys_are_rotated_beside_two_replicas_without_one_failed_call(tmp_path: Path, postgres_url: str) -> None:
    key_file = tmp_path / "secret.key"
    async with replicas(tmp_path, postgres_url) as both:
        secrets = Secrets(both)
        for number in range(IDLE):
            await secrets.create(number % 2, f"idle-{number}", f"{MARK}-{number}")
        for replica in (0, 1):
            await secrets.create(replica, f"of-{replica}", MARK)
        old = key_file.read_text()
        async with over_and_over(secrets.work(0), secrets.work(1)) as counts:
            for _ in range(2):
                await rotate(tmp_path, postgres_url)
                before = [count + 1 for count in counts]  # one of each begins after the old key is gone
                await until(lambda before=before: true(all(n > b for n, b in zip(counts, before, strict=True))))
        assert key_file.read_text().count("\n") == 1
        assert key_file.read_text() != old
        for number in range(IDLE):
            assert [await secrets.value(replica, f"idle-{number}") for replica in (0, 1)] == [f"{MARK}-{number}"] * 2
        for process, _ in both:
            assert MARK not in process.stderr + process.stdout
            assert "Traceback" not in process.stderr
