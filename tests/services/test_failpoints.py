"""What must not happen to a database, made to happen: each fault has its own test, on real processes.

Whatever the fault, the answer is a clear refusal or none at all, reads go on where the engine can read, nothing
acknowledged is lost, nothing is half there, and writing goes on by itself once the fault is gone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from junctor.errors import PeerUnavailable, ResourceNotFound, StoreUnavailable, Unavailable
from services.provider_registry.schedule import DISCOVERY
from services.provider_registry.secret_store import VALUES
from services.runtime.journal import OUTBOX
from services.runtime.resources import resource_table
from tests.cluster import until
from tests.e2e.faults import CAN, Faults
from tests.e2e.processes import PATIENCE
from tests.e2e.registries import REGISTRIES, Registries, insist, registries, resource
from tests.postgres import Postgres
from tests.upstream import ScriptedUpstream

SERVICE = "provider-registry"
KINDS = ("provider", "secret")
needs_a_compiler = pytest.mark.skipif(not CAN, reason="the faults are a library in C: needs Linux and cc")


@pytest.fixture
def faults(tmp_path: Path) -> Iterator[Faults]:
    made = Faults(tmp_path / "faults")
    yield made
    made.close()


async def consistent(running: Registries, kinds: dict[str, set[str]]) -> None:
    """Check that exactly these resources are there, each with its rows in all tables and once in the log."""
    log = await running.log(SERVICE)
    assert [row.revision for row in log] == list(range(1, len(log) + 1))
    parts = {"provider": ("providers", DISCOVERY.c.provider_id), "secret": ("secrets", VALUES.c.secret_id)}
    for kind, names in kinds.items():
        table, other = parts[kind]
        rows = await running.rows(SERVICE, sa.select(*resource_table(table).c["name", "id", "revision"]))
        assert {row.name for row in rows} == names
        assert {row[0] for row in await running.rows(SERVICE, sa.select(other))} == {row.id for row in rows}
        message = resource(kind, running.peers).message
        logged = {message.FromString(row.body).id: row.revision for row in log if row.kind == kind}
        assert logged == {row.id: row.revision for row in rows}, "created twice, or not logged"


# -- the process dies at a commit


@pytest.mark.parametrize("point", ["before", "after"])
async def test_a_crash_at_the_commit_leaves_all_of_a_write_or_nothing(
    tmp_path: Path, request: pytest.FixtureRequest, engine: str, point: str
) -> None:
    url = request.getfixturevalue("postgres_url") if engine == "postgresql" else None
    failpoint = tmp_path / "failpoint"
    failpoint.touch()
    program = ("tests.e2e.crashing", str(failpoint))
    async with registries(tmp_path, database_url=url, program=program, JUNCTOR_DISCOVERY_INTERVAL="600") as running:
        for kind in KINDS:
            made = resource(kind, running.peers)
            await insist(lambda made=made: made.create("kept", "kept", request_id=f"kept-{made.kind}"))
            await settled(running)  # the next commit is the one of the call below
            failpoint.write_text(point)
            with pytest.raises(PeerUnavailable):
                await made.create("cut", "cut", request_id=f"cut-{kind}")
            await dead_and_back(running, failpoint)
            await made.peer.ready(PATIENCE)
            if point == "before":
                with pytest.raises(ResourceNotFound):
                    await insist(lambda made=made: made.get("cut"))
            else:
                assert (await insist(lambda made=made: made.get("cut"))).description == "cut"
            first = await insist(lambda made=made: made.create("cut", "cut", request_id=f"cut-{made.kind}"))
            assert (await made.get("cut")).id == first.id
        await settled(running)
        await consistent(running, {kind: {"kept", "cut"} for kind in KINDS})


async def dead_and_back(running: Registries, failpoint: Path) -> None:
    (process,) = running.deployment.processes.values()
    assert await process.ended() == -9
    failpoint.write_text("")
    await process.start()


async def settled(running: Registries) -> None:
    """Wait until neither discovery nor the record has anything to write: log and tables are read in two steps."""
    providers = resource("provider", running.peers)

    async def ready() -> bool:
        table = resource_table("providers")
        names = [row.name for row in await running.rows(SERVICE, sa.select(table.c.name))]
        if await running.rows(SERVICE, sa.select(OUTBOX.c.revision)):
            return False
        return all([await _settled_one(providers, name) for name in names])

    await until(ready, seconds=PATIENCE)


@needs_a_compiler
@pytest.mark.parametrize("moment", [1, 2], ids=["before the sync", "after the sync"])
async def test_a_crash_within_sqlites_commit_leaves_all_of_a_write_or_nothing(
    tmp_path: Path, faults: Faults, moment: int
) -> None:
    async with registries(tmp_path, **faults.environ) as running:
        (process,) = running.deployment.processes.values()
        secrets = resource("secret", running.peers)
        await insist(lambda: secrets.create("kept", "kept"))
        faults.set(kill=moment)
        with pytest.raises(PeerUnavailable):
            await secrets.create("cut", "cut", request_id="cut")
        assert await process.ended() == -9
        faults.set(kill=0)
        await process.start()
        await secrets.peer.ready(PATIENCE)
        again = await insist(lambda: secrets.create("cut", "cut", request_id="cut"))
        assert (await secrets.get("cut")).id == again.id
        await consistent(running, {"secret": {"kept", "cut"}, "provider": set()})


# -- the disk refuses


@asynccontextmanager
async def on_a_bad_disk(
    tmp_path: Path, faults: Faults, fault: str
) -> AsyncIterator[tuple[Registries, Callable[[bool], Awaitable[None]]]]:
    async def hurt(on: bool) -> None:
        faults.set(**{fault: int(on)})

    async with registries(tmp_path, **faults.environ) as running:
        yield running, hurt


@asynccontextmanager
async def on_a_bad_server(
    tmp_path: Path, postgres: Postgres, sqlstate: str
) -> AsyncIterator[tuple[Registries, Callable[[bool], Awaitable[None]]]]:
    """PostgreSQL that answers as it does when its own disk refuses: the error comes from a trigger."""
    schema = SERVICE.replace("-", "_")

    async def hurt(on: bool) -> None:
        body = f"BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '{sqlstate}'; END"
        statements = (
            f"CREATE FUNCTION {schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$",
            f"CREATE TRIGGER bad BEFORE INSERT ON {schema}.changes EXECUTE FUNCTION {schema}.refuse()",
        )
        for statement in statements if on else (f"DROP FUNCTION {schema}.refuse() CASCADE",):
            postgres.execute(statement, database=name)

    with postgres.database() as url:
        name = urlsplit(url).path.lstrip("/")
        async with registries(tmp_path, database_url=url) as running:
            yield running, hurt


async def refused_for_a_while(running: Registries, hurt: Callable[[bool], Awaitable[None]], cause: str) -> None:
    """Hurt the store and heal it; hold every promise meanwhile and afterwards."""
    kinds = {kind: resource(kind, running.peers) for kind in KINDS}
    for kind, made in kinds.items():
        await insist(lambda made=made: made.create("kept", "kept"))
        assert (await made.get("kept")).name == "kept", kind
    await until(lambda: _settled_one(kinds["provider"]), seconds=PATIENCE)
    await hurt(True)
    for kind, made in kinds.items():
        for write in (
            lambda made=made, kind=kind: made.create("late", "late", request_id=f"late-{kind}"),
            lambda made=made: made.update("kept", "changed"),
            lambda made=made: made.delete("kept"),
        ):
            await refused(write, cause)
        assert (await made.get("kept")).description == "kept", "reads go on"
    await hurt(False)
    for kind, made in kinds.items():
        await insist(lambda made=made, kind=kind: made.create("late", "late", request_id=f"late-{kind}"))
        assert (await made.update("kept", "changed")).description == "changed"
    await until(lambda: _settled_one(kinds["provider"], "late"), seconds=PATIENCE)
    await consistent(running, {kind: {"kept", "late"} for kind in KINDS})
    (process,) = running.deployment.processes.values()
    assert process.running()
    assert "unexpected error" not in process.stderr


async def _settled_one(providers: Any, name: str = "kept") -> bool:
    return bool((await providers.get(name)).status_message == "")


async def refused(write: Callable[[], Awaitable[Any]], cause: str) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        await write()
    assert caught.value.metadata == {"cause": cause}
    assert caught.value.retry_after
    assert caught.value.message.startswith("The service's store ")
    assert "sqlite" not in caught.value.message.lower()
    assert isinstance(caught.value, Unavailable)


@needs_a_compiler
@pytest.mark.parametrize(("fault", "cause"), [("full", "full"), ("fsync", "io_error")])
async def test_a_bad_disk_refuses_writes_only_and_for_as_long_as_it_is_bad(
    tmp_path: Path, faults: Faults, fault: str, cause: str
) -> None:
    async with on_a_bad_disk(tmp_path, faults, fault) as (running, hurt):
        await refused_for_a_while(running, hurt, cause)
        await running.restart(REGISTRIES[0])
        await running.peers[SERVICE].ready(PATIENCE)
        await consistent(running, {kind: {"kept", "late"} for kind in KINDS})


@pytest.mark.parametrize(("sqlstate", "cause"), [("53100", "full"), ("58030", "io_error")])
async def test_a_bad_disk_of_postgresql_refuses_writes_only_and_for_as_long_as_it_is_bad(
    tmp_path: Path, postgres: Postgres, sqlstate: str, cause: str
) -> None:
    async with on_a_bad_server(tmp_path, postgres, sqlstate) as (running, hurt):
        await refused_for_a_while(running, hurt, cause)


# -- the clock jumps


@needs_a_compiler
@pytest.mark.parametrize("hours", [3, -3], ids=["forward and back", "back and forward"])
async def test_discovery_goes_on_when_the_wall_clock_jumps(
    tmp_path: Path, faults: Faults, upstream: ScriptedUpstream, hours: int
) -> None:
    async with registries(tmp_path, JUNCTOR_DISCOVERY_INTERVAL="1", **faults.environ) as running:
        provider = resource("provider", running.peers)
        await insist(lambda: provider.create("up", "up", host_url=upstream.url))
        await upstream.request()
        for offset in (hours * 3600, 0):
            faults.set(clock=offset)
            before = len(upstream.requests)
            await upstream.wait_for(lambda before=before: len(upstream.requests) >= before + 3)
            assert (await provider.update("up", f"at {offset}")).description == f"at {offset}"
