"""Writers and watchers of every kind of resource, and what must be true of them whatever happened meanwhile.

Every client repeats what got no answer: a create with its ``request_id``, an update with the version that it read. So
in the end each write was done exactly once, and the change log must have exactly these.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from junctor.errors import ResourceNotFound, StaleVersion, Unavailable
from junctor.v1 import watch_pb2
from services.provider_registry.schedule import DISCOVERY, TOMBSTONES
from services.provider_registry.secret_store import VALUES
from services.runtime.resources import resource_table
from tests.cluster import until
from tests.e2e.processes import PATIENCE
from tests.e2e.registries import LOG, Registries, Resource, insist, resource

WRITERS = 12
KINDS = ("workspace", "model", "secret", "provider")
_TOLD = (watch_pb2.WATCH_EVENT_TYPE_UPSERTED, watch_pb2.WATCH_EVENT_TYPE_DELETED)


@dataclass
class Load:
    """Writers of one kind, and what they were told."""

    resource: Resource
    acknowledged: int = 0
    unanswered: int = 0
    done: Counter[str] = field(default_factory=Counter)
    """Writes by name."""
    expected: dict[str, str] = field(default_factory=dict)
    """Text by name of what must be there."""
    ending: bool = False

    async def write(self, writer: int) -> None:
        number = 0
        while not self.ending:
            await self._life(f"w{writer}-{number}", number)
            number += 1

    async def _life(self, name: str, number: int) -> None:
        created = await self._insist(lambda: self.resource.create(name, "new", request_id=f"create-{name}"))
        self._told(name, "new")
        if number % 3:
            await self._insist(lambda: self._update(name, created.resource_version))
            self._told(name, "changed")
        if number % 3 == 2:
            await self._insist(lambda: self._delete(name))
            self._told(name, None)

    async def _update(self, name: str, version: str) -> None:
        """Change the text. Discovery writes providers too, so their updates are blind."""
        try:
            await self.resource.update(name, "changed", "" if self.resource.kind == "provider" else version)
        except StaleVersion:  # only this writer writes here: it was done, and the answer got lost
            assert (await self.resource.get(name)).description == "changed"

    async def _delete(self, name: str) -> None:
        with suppress(ResourceNotFound):  # as above
            await self.resource.delete(name)

    async def _insist(self, act: Any) -> Any:
        return await insist(act, meanwhile=self._unanswered)

    def _unanswered(self) -> None:
        self.unanswered += 1

    def _told(self, name: str, text: str | None) -> None:
        self.acknowledged += 1
        self.done[name] += 1
        if text is None:
            del self.expected[name]
        else:
            self.expected[name] = text


async def follow(watched: Resource, seen: list[tuple[int, str, bool]], synced: asyncio.Event) -> None:
    """Take down every change after the first snapshot; resumes by token for ever."""
    token = ""
    while True:
        with suppress(Unavailable):
            async with aclosing(watched.watch(token)) as events:
                async for event in events:
                    if synced.is_set() and event.type in _TOLD:
                        deleted = event.type == watch_pb2.WATCH_EVENT_TYPE_DELETED
                        seen.append((event.revision, event.resource.name, deleted))
                    if event.type == watch_pb2.WATCH_EVENT_TYPE_SYNCED:
                        synced.set()
                    token = event.resume_token if synced.is_set() else ""
        await asyncio.sleep(0.01)


async def check(running: Registries, load: Load, seen: list[tuple[int, str, bool]]) -> None:
    """Hold table, log, watcher and what the writers were told against one another."""
    kind, service = load.resource.kind, load.resource.service
    table = resource_table(load.resource.table)
    columns = sa.select(table.c.name, table.c.id, table.c.revision, table.c.body)
    rows, log = await running.state(service, columns, LOG)  # discovery may still be writing
    stored = {row.name: load.resource.message.FromString(row.body) for row in rows}
    built_in = {"default", "system"} if kind == "workspace" else set()
    assert {name: found.description for name, found in stored.items() if name not in built_in} == load.expected
    assert [row.revision for row in log] == list(range(1, len(log) + 1)), "a gap or a double"
    mine = [(row.revision, load.resource.message.FromString(row.body), row.deleted) for row in log if row.kind == kind]
    last = {resource.name: (revision, deleted) for revision, resource, deleted in mine}
    assert {name: revision for name, (revision, deleted) in last.items() if not deleted} == {
        row.name: row.revision for row in rows
    }
    told = [(revision, found.name, deleted) for revision, found, deleted in mine if found.name not in built_in]
    await until(lambda: _true(len(seen) >= len(told)), seconds=PATIENCE)
    assert seen[: len(told)] == told
    if kind != "provider":  # those are written by discovery as well
        assert Counter(name for _, name, _ in seen) == load.done


async def _true(value: bool) -> bool:
    return value


async def check_provider_registry(running: Registries) -> None:
    """Each provider has its row in the schedule, each secret its value, and nothing else has."""
    for name, column in (("providers", DISCOVERY.c.provider_id), ("secrets", VALUES.c.secret_id)):
        ids = {row.id for row in await running.rows("provider-registry", sa.select(resource_table(name).c.id))}
        assert {row[0] for row in await running.rows("provider-registry", sa.select(column))} == ids

    async def forgotten() -> bool:
        return not await running.rows("provider-registry", sa.select(TOMBSTONES))

    await until(forgotten, seconds=PATIENCE)


async def acknowledged(loads: list[Load], goal: int) -> None:
    """Wait until so many writes of all kinds together have been acknowledged."""
    await until(lambda: _true(sum(load.acknowledged for load in loads) >= goal), seconds=PATIENCE)


async def under_load(running: Registries, hurt: Callable[[list[Load]], Awaitable[None]]) -> list[Load]:
    """Write and watch everything while ``hurt`` does its worst, then check everything; returns the loads."""
    loads = [Load(resource(kind, running.peers)) for kind in KINDS]
    seen: list[list[tuple[int, str, bool]]] = [[] for _ in loads]
    synced = [asyncio.Event() for _ in loads]
    watchers = [asyncio.create_task(follow(loads[n].resource, seen[n], synced[n])) for n in range(len(loads))]
    try:
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(event.wait() for event in synced))
        async with asyncio.TaskGroup() as group:
            for writer in range(WRITERS):
                group.create_task(loads[writer % len(loads)].write(writer))
            await hurt(loads)
            for load in loads:
                load.ending = True
        for load, heard in zip(loads, seen, strict=True):
            await check(running, load, heard)
    finally:
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
    return loads
