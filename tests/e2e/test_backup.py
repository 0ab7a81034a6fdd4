"""Backed up under load, everything destroyed, restored: the same answers to the same requests, and no token of before.

SQLite by ``junctor admin backup`` and ``restore``, PostgreSQL by its own tools and ``new-epoch``, as docs/backup.md
has it. Real processes.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from junctor.channel import open_peer
from junctor.errors import WatchExpired
from junctor.v1 import model_registry_pb2_grpc, provider_registry_pb2_grpc, watch_pb2, workspaces_pb2_grpc
from services.admin.backup import STORES, BackupFailed, back_up, read_manifest, restore
from services.runtime.changes import CHANGES, COUNTER
from services.runtime.db import open_database
from tests.cluster import until
from tests.e2e.core import GATEWAY as WORKSPACES
from tests.e2e.core import MODELS
from tests.e2e.processes import PATIENCE, ROOT, Deployment, Process, deployment
from tests.e2e.registries import REGISTRIES, migrate
from tests.e2e.upgrading import Writer
from tests.postgres import LONG_ON_SQLITE, Postgres
from tests.upstream import ScriptedUpstream

ALL = (*REGISTRIES, "inference-router", "gateway")
SECRETS = "/apis/secrets/v2/workspaces"
VALUE = "sk-kept-in-the-backup"
ROUNDS = 15
"""Of the writer, before, and once more after the backup."""
WATCHES = {
    "access_control": lambda channel: workspaces_pb2_grpc.WorkspacesStub(channel).WatchWorkspaces,
    "model_registry": lambda channel: model_registry_pb2_grpc.ModelRegistryStub(channel).WatchModels,
    "provider_registry": lambda channel: provider_registry_pb2_grpc.ProviderRegistryStub(channel).WatchProviders,
}
READS = (
    "/apis/entities/v2/workspaces/team",
    f"{MODELS}/team/providers/up",
    f"{MODELS}/team/models/test-model",
    f"{WORKSPACES}/team/virtual-models/alias",
    f"{SECRETS}/team/secrets/mine",
)


@dataclass
class Stores:
    """Where the stores are, and what backs them up and brings them back: each engine its own way."""

    environ: dict[str, str]
    data: Path
    back_up: Callable[[Path], Awaitable[None]]
    lose_and_restore: Callable[[Path], Awaitable[None]]

    async def log(self, store: str) -> list[Any]:
        url = self.environ.get("JUNCTOR_DATABASE_URL", f"sqlite:///{self.data / store}.sqlite")
        database = open_database(url, schema=store)
        try:
            async with database.read() as tx:
                return [*await tx.execute(sa.select(CHANGES).order_by(CHANGES.c.revision))]
        finally:
            await database.close()

    async def counter(self, store: str) -> Any:
        url = self.environ.get("JUNCTOR_DATABASE_URL", f"sqlite:///{self.data / store}.sqlite")
        database = open_database(url, schema=store)
        try:
            async with database.read() as tx:
                return (await tx.execute(sa.select(COUNTER))).one()
        finally:
            await database.close()


def command(folder: Path, environ: dict[str, str], *arguments: str | Path) -> Process:
    return Process("junctor", "admin", *map(str, arguments), folder=folder / "command", environ=environ)


async def done(process: Process) -> str:
    assert await process.run() == 0, process.stderr
    return process.stdout


@pytest.fixture
def stores(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> Stores:
    environ = {"JUNCTOR_SECRET_KEY_FILE": str(tmp_path / "secret.key")}
    made = (_in_postgresql if engine == "postgresql" else _in_files)(tmp_path, environ, request)
    made.environ["JUNCTOR_SERVICE_TOKEN_FILE"] = str(tmp_path / "service.token")
    return made


def _in_files(folder: Path, environ: dict[str, str], _: object) -> Stores:
    data = folder / "data"

    async def back_up(backup: Path) -> None:
        said = await done(command(folder, environ, "backup", backup, "--data-dir", data))
        assert environ["JUNCTOR_SECRET_KEY_FILE"] in said
        assert VALUE not in said
        kept = [file for file in backup.iterdir() if file.stat().st_mode & 0o077]
        assert kept == [], "a backup is for its owner alone"

    async def lose_and_restore(backup: Path) -> None:
        shutil.rmtree(data)
        said = await done(command(folder, environ, "restore", backup, "--data-dir", data))
        assert said.count("with a new epoch") == len(STORES)

    return Stores(environ, data, back_up, lose_and_restore)


def _in_postgresql(folder: Path, environ: dict[str, str], request: pytest.FixtureRequest) -> Stores:
    server: Postgres = request.getfixturevalue("postgres")
    environ["JUNCTOR_DATABASE_URL"] = request.getfixturevalue("postgres_url")
    dump = "junctor.dump"
    schemas = re.findall(r"--schema=[a-z_]+", (ROOT / "docs/backup.md").read_text())  # as the page has it
    assert sorted(schemas) == [f"--schema={store}" for store in STORES]

    def run(program: str, *arguments: str | Path) -> None:
        subprocess.run([server.binaries / program, *arguments], check=True, timeout=PATIENCE, capture_output=True)

    async def back_up(backup: Path) -> None:
        backup.mkdir()
        options = ("--format=custom", *schemas, "--file", backup / dump, environ["JUNCTOR_DATABASE_URL"])
        await asyncio.to_thread(run, "pg_dump", *options)

    async def lose_and_restore(backup: Path) -> None:
        empty = server.database()
        environ["JUNCTOR_DATABASE_URL"] = empty.__enter__()
        request.addfinalizer(lambda: empty.__exit__(None, None, None))
        options = ("--no-owner", "--exit-on-error", "--single-transaction", "--dbname")
        await asyncio.to_thread(run, "pg_restore", *options, environ["JUNCTOR_DATABASE_URL"], backup / dump)
        said = await done(command(folder, environ, "new-epoch"))
        assert said.count("its epoch is") == len(STORES)

    return Stores(environ, folder, back_up, lose_and_restore)


async def answers(http: httpx.AsyncClient, upstream: ScriptedUpstream) -> list[Any]:
    """What a reader gets, and a caller: the answer, and the credential that the provider was shown."""
    read = [(await http.get(path)).raise_for_status().json() for path in READS]
    for resource in read:
        for moment in ("last_attempt", "next_attempt"):  # of discovery, which goes on
            resource.pop(moment, None)
    body = {"model": "team/alias", "messages": [{"role": "user", "content": "Hi"}]}
    answer = await http.post("/v1/chat/completions", json=body)
    asked = next(r for r in reversed(upstream.requests) if r.target.endswith("/chat/completions"))
    return [*read, answer.status_code, answer.json(), asked.header("authorization")]


async def fill(http: httpx.AsyncClient, upstream: ScriptedUpstream) -> None:
    for path, body in (
        ("/apis/entities/v2/workspaces", {"name": "team", "description": "kept"}),
        (f"{SECRETS}/team/secrets", {"name": "mine", "value": VALUE}),
        (f"{MODELS}/team/providers", {"name": "up", "host_url": upstream.url, "api_key_secret_name": "mine"}),
        (f"{WORKSPACES}/team/virtual-models", {"name": "alias", "default_model_entity": "team/test-model"}),
    ):
        created = await http.post(path, json=body)
        assert created.status_code == 201, created.text
    await routed(http)


async def routed(http: httpx.AsyncClient) -> None:
    async def ready() -> bool:
        listed = await http.get("/v1/models")
        ways = f"{WORKSPACES}/team/provider/up/ready"
        return "team/alias" in listed.text and (await http.get(ways)).status_code == 200

    await until(ready, seconds=PATIENCE)


async def watched(deployed: Deployment, store: str, token: str = "") -> str:
    """Watch from ``token`` until what is there has been told; returns the token then."""
    peer = open_peer(f"127.0.0.1:{deployed.ports[ALL[0]]}", name=store)
    try:
        async with asyncio.timeout(PATIENCE):
            async for event in peer.stream(WATCHES[store](peer.channel), watch_pb2.WatchRequest(resume_token=token)):
                if event.type == watch_pb2.WATCH_EVENT_TYPE_SYNCED:
                    return str(event.resume_token)
    finally:
        await peer.close()
    raise AssertionError("the watch ended")


async def tokens(deployed: Deployment) -> dict[str, str]:
    return {store: await watched(deployed, store) for store in WATCHES}


@asynccontextmanager
async def writing(url: str, *, first: int = 0) -> AsyncIterator[Writer]:
    """A writer that nothing may fail for."""
    writer = Writer([url], [], pause=0.0, done=first)
    task = asyncio.create_task(writer.run())
    try:
        yield writer
    finally:
        writer.over = True
        await task
    assert writer.failed == []


async def written(writer: Writer, rounds: int) -> None:
    goal = writer.done + rounds

    async def reached() -> bool:
        return bool(writer.failed) or writer.done >= goal

    await until(reached, seconds=PATIENCE)


@dataclass(frozen=True)
class Lost:
    """What was known of the stores before they were destroyed. ``begun``: rounds of the writer before the backup."""

    answers: list[Any]
    begun: int
    tokens: list[dict[str, str]]
    logs: dict[str, list[Any]]


@LONG_ON_SQLITE
async def test_a_backup_under_load_brings_everything_back_and_no_old_token_is_taken(
    stores: Stores, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    backup = tmp_path / "backup"
    async with deployment(tmp_path, ALL) as deployed:
        process = deployed.processes[ALL[0]]
        process.environ |= stores.environ
        process.command = tuple(str(stores.data) if word == "data" else word for word in process.command)
        if "JUNCTOR_DATABASE_URL" in stores.environ:
            await migrate(tmp_path, stores.environ["JUNCTOR_DATABASE_URL"])
        await process.start()
        await deployed.http_ready()
        lost = await backed_up_under_load(stores, deployed, upstream, backup)
        await process.kill()
        await stores.lose_and_restore(backup)
        await one_state_of_all(stores, lost)
        process.environ |= stores.environ
        await process.start()
        await deployed.http_ready()
        async with deployed.access() as access:
            await routed(access.http)
            assert await answers(access.http, upstream) == lost.answers
            await no_token_is_taken(access.url, deployed, lost)


async def backed_up_under_load(stores: Stores, deployed: Deployment, upstream: ScriptedUpstream, backup: Path) -> Lost:
    """Fill the stores, back them up while they are written to, and go on writing for a while."""
    async with deployed.access() as access:
        await fill(access.http, upstream)
        before = await answers(access.http, upstream)
        assert before[-1] == f"Bearer {VALUE}"
        async with writing(access.url) as writer:
            await written(writer, ROUNDS)
            early, begun = await tokens(deployed), writer.done
            await stores.back_up(backup)
            await written(writer, ROUNDS)
        late = await tokens(deployed)
    return Lost(before, begun, [early, late], {store: await stores.log(store) for store in WATCHES})


async def one_state_of_all(stores: Stores, lost: Lost) -> None:
    """Check that what was restored is one state of each store in the middle of the load, and one of all together."""
    last = []
    for store, whole in lost.logs.items():
        log, counter = await stores.log(store), await stores.counter(store)
        assert 0 < len(log) < len(whole), "a backup that is not of the middle of the load shows nothing"
        assert log == whole[: len(log)]
        assert counter.value == log[-1].revision
        assert counter.epoch != lost.tokens[0][store].partition(".")[0]
        last.append(max(int(found) for row in log for found in re.findall(rb"\bx-(\d+)\b", row.body)))
    # The writer goes from one store to the next.
    assert lost.begun - 1 <= last[2] <= last[1] <= last[0] <= last[2] + 1, last


async def no_token_is_taken(url: str, deployed: Deployment, lost: Lost) -> None:
    """Check it at once, and when the revision of the lost stores has been passed again."""
    async with writing(url, first=10_000) as writer:
        for rounds in (0, 2 * ROUNDS):
            await written(writer, rounds)
            for store, token in (pair for given in lost.tokens for pair in given.items()):
                with pytest.raises(WatchExpired):
                    await watched(deployed, store, token)
    for store, token in (await tokens(deployed)).items():
        assert int(token.partition(".")[2]) > int(lost.tokens[1][store].partition(".")[2])
        await watched(deployed, store, token)


# -- what is refused


@pytest.fixture
async def files(tmp_path: Path) -> dict[str, Path]:
    """Empty stores that nobody serves."""
    data = tmp_path / "data"
    assert await Process("junctord", *REGISTRIES, "migrate", "--data-dir", str(data), folder=tmp_path / "m").run() == 0
    return {store: data / f"{store}.sqlite" for store in WATCHES}


async def refused(folder: Path, *arguments: str | Path) -> str:
    process = command(folder, {}, *arguments)
    assert await process.run() == 1
    assert process.stderr.count("\n") == 1, process.stderr
    said = process.stderr
    (process.folder / "stderr").unlink()
    return said


async def test_nothing_is_overwritten_and_nothing_half_is_taken(files: dict[str, Path], tmp_path: Path) -> None:
    backup, other = tmp_path / "backup", tmp_path / "other"
    made = back_up(files, backup, {"JUNCTOR_SECRET_KEY_FILE": "/k"})
    assert read_manifest(backup) == made
    assert list(made.stores) == list(WATCHES)
    with pytest.raises(BackupFailed, match="is not empty"):
        back_up(files, backup, {})
    with pytest.raises(BackupFailed, match=r"access_control\.sqlite is there, and nothing is overwritten"):
        restore(backup, made, tmp_path / "data")
    store = backup / "provider_registry.sqlite"
    whole = store.read_bytes()
    store.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BackupFailed, match="is not what was backed up"):
        restore(backup, made, other)
    assert list(other.glob("*")) == [], "all stores or none"
    store.write_bytes(whole)
    (backup / "manifest.json").unlink()
    with pytest.raises(BackupFailed, match="is no whole backup"):
        read_manifest(backup)


def test_a_store_that_is_being_written_to_all_the_time_is_given_up(files: dict[str, Path], tmp_path: Path) -> None:
    with closing(sqlite3.connect(files["model_registry"], isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(BackupFailed, match="written to all the time"):
            back_up(files, tmp_path / "backup", {}, patience=0.0)


async def test_the_commands_name_what_is_missing_and_no_password(files: dict[str, Path], tmp_path: Path) -> None:
    backup, other = tmp_path / "backup", tmp_path / "other"
    manifest = asdict(back_up(files, backup, {}))
    (backup / "manifest.json").write_text(json.dumps(manifest | {"keys": ["key-1"]}))
    said = await refused(tmp_path, "restore", backup, "--data-dir", other)
    assert "lacks the keys that the backup's secrets need (key-1)" in said
    assert not other.exists()
    await done(command(tmp_path, {}, "restore", backup, "--data-dir", other, "--without-keys"))
    assert "there is no store in" in await refused(tmp_path, "backup", tmp_path / "b2", "--data-dir", tmp_path)
    url = "postgresql://nobody:geheim@127.0.0.1:1/x"
    said = await refused(tmp_path, "new-epoch", "--database-url", url)
    assert "cannot reach the database x on 127.0.0.1" in said
    assert "geheim" not in said
