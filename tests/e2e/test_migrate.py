"""Upgrades with real processes: the command, what a server refuses, and the release before on the present schema."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from junctor.channel import Peer, open_peer
from junctor.errors import JunctorError, ResourceNotFound
from junctor.v1 import model_registry_pb2 as mpb
from junctor.v1 import (
    model_registry_pb2_grpc,
    provider_registry_pb2_grpc,
    secrets_pb2_grpc,
    virtual_models_pb2_grpc,
    watch_pb2,
    workspaces_pb2_grpc,
)
from junctor.v1 import provider_registry_pb2 as ppb
from junctor.v1 import secrets_pb2 as spb
from junctor.v1 import virtual_models_pb2 as vpb
from junctor.v1 import workspaces_pb2 as wpb
from services.main import main
from services.migrate import MIGRATIONS
from services.runtime.auth import load_or_create_token, token_metadata
from services.runtime.db import open_database
from services.runtime.schema import needed_by, record
from tests.e2e.previous_release import Release, before, installed, releases
from tests.e2e.processes import PATIENCE, Process, free_port, process
from tests.sharing import folder_of_the_run
from tests.stores import BOUND, until, url_of

REGISTRIES = ("access-control", "model-registry", "provider-registry")
HOST = "http://10.255.255.1:9"
VALUE = "s3cret-of-before"


@dataclass
class Registries:
    """The three registries of one release in one process, as a caller meets them."""

    peer: Peer
    process: Process

    def __post_init__(self) -> None:
        channel = self.peer.channel
        self.workspaces = workspaces_pb2_grpc.WorkspacesStub(channel)
        self.models = model_registry_pb2_grpc.ModelRegistryStub(channel)
        self.virtual_models = virtual_models_pb2_grpc.VirtualModelsStub(channel)
        self.providers = provider_registry_pb2_grpc.ProviderRegistryStub(channel)
        self.secrets = secrets_pb2_grpc.SecretStoreStub(channel)
        self.values = secrets_pb2_grpc.SecretAccessStub(channel)

    async def model(self, name: str, *, workspace: str = "team") -> mpb.Model:
        return await self.peer.call(self.models.GetModel, mpb.GetModelRequest(workspace=workspace, name=name))

    async def create(self, name: str, *, workspace: str = "team") -> mpb.Model:
        request = mpb.CreateModelRequest(model=mpb.Model(workspace=workspace, name=name))
        return await self.peer.call(self.models.CreateModel, request)

    async def describe(self, name: str, description: str) -> mpb.Model:
        model = mpb.Model(workspace="team", name=name, description=description)
        request = mpb.UpdateModelRequest(model=model, update_mask={"paths": ["description"]})
        return await self.peer.call(self.models.UpdateModel, request)

    async def delete(self, name: str) -> None:
        await self.peer.call(self.models.DeleteModel, mpb.DeleteModelRequest(workspace="team", name=name))

    async def team(self) -> wpb.Workspace:
        """Make the workspace ``team``."""
        request = wpb.CreateWorkspaceRequest(workspace=wpb.Workspace(name="team"))
        return await self.peer.call(self.workspaces.CreateWorkspace, request)

    async def fill(self) -> list[Any]:
        """Make a resource of each kind in ``team``, and return them."""
        workspace = await self.team()
        secret = spb.CreateSecretRequest(secret=spb.Secret(workspace="team", name="key1"), value=VALUE)
        virtual = vpb.VirtualModel(workspace="team", name="alias", default_model_entity="team/m1")
        provider = ppb.Provider(workspace="team", name="up1", host_url=HOST, static_models={"values": ["served"]})
        await self.peer.call(self.providers.CreateProvider, ppb.CreateProviderRequest(provider=provider))
        made = [
            workspace,
            await self.create("m1"),
            await self.peer.call(
                self.virtual_models.CreateVirtualModel, vpb.CreateVirtualModelRequest(virtual_model=virtual)
            ),
            await self.peer.call(self.secrets.CreateSecret, secret),
        ]
        await until(self.discovered)
        return made

    async def read(self) -> list[Any]:
        """Return what :meth:`fill` made, as it is now."""
        name = {"workspace": "team"}
        return [
            await self.peer.call(self.workspaces.GetWorkspace, wpb.GetWorkspaceRequest(name="team")),
            await self.model("m1"),
            await self.peer.call(self.virtual_models.GetVirtualModel, vpb.GetVirtualModelRequest(name="alias", **name)),
            await self.peer.call(self.secrets.GetSecret, spb.GetSecretRequest(name="key1", **name)),
        ]

    async def discovered(self) -> bool:
        """Tell whether the provider is READY and its model's entity is there."""
        request = ppb.GetProviderRequest(workspace="team", name="up1")
        found = await self.peer.call(self.providers.GetProvider, request)
        return found.status == ppb.PROVIDER_STATUS_READY and bool((await self.model("served")).id)

    async def value(self) -> str:
        request = spb.AccessSecretRequest(workspace="team", name="key1")
        return (await self.peer.call(self.values.AccessSecret, request)).value

    async def watch(self, token: str = "", *, until_synced: bool = True) -> tuple[list[tuple[str, bool]], str]:
        """Return the changes of models (name, deleted) of a Watch up to its SYNCED mark, and the token there."""
        changes: list[tuple[str, bool]] = []
        async with asyncio.timeout(BOUND):
            async for event in self.models.WatchModels(watch_pb2.WatchRequest(resume_token=token)):
                if event.type == watch_pb2.WATCH_EVENT_TYPE_SYNCED:
                    return changes, event.resume_token
                deleted = event.type == watch_pb2.WATCH_EVENT_TYPE_DELETED
                changes.append((event.resource.name, deleted))
        raise AssertionError("the watch ended")

    async def serves(self) -> bool:
        assert self.process.running(), self.process.stderr
        try:
            await self.peer.call(self.workspaces.GetWorkspace, wpb.GetWorkspaceRequest(name="default"))
        except JunctorError:
            return False
        return True


def flags(folder: Path) -> list[str]:
    url = url_of(folder, "any")
    return ["--data-dir", str(folder / "data"), *(["--database-url", url] if url.startswith("postgres") else [])]


@asynccontextmanager
async def registries(folder: Path, script: str | Path = "junctord", **environ: str) -> AsyncIterator[Registries]:
    """Run the registries on the stores of ``folder``; they end as on an upgrade. ``script``: of which release."""
    port = free_port()
    token = folder / "service.token"
    environ |= {"JUNCTOR_SEED": "false", "JUNCTOR_SERVICE_TOKEN_FILE": str(token), "JUNCTOR_DRAIN_TIMEOUT": "1"}
    arguments = (*REGISTRIES, *flags(folder), "--grpc-port", str(port))
    async with process(str(script), *arguments, folder=folder / "home", **environ) as running:
        peer = open_peer(f"127.0.0.1:{port}", name="registries", metadata=token_metadata(load_or_create_token(token)))
        try:
            made = Registries(peer, running)
            async with asyncio.timeout(PATIENCE):
                while not await made.serves():
                    await asyncio.sleep(0.05)
            yield made
        finally:
            await peer.close()
        running.send(signal.SIGTERM)
        assert await running.ended() == 0, running.stderr


async def migrate(folder: Path, services: Sequence[str] = REGISTRIES, *, run: str = "migrate") -> tuple[int, str, str]:
    """Run ``junctord SERVICE… migrate``; return exit code, output and errors."""
    command = Process("junctord", *services, "migrate", *flags(folder), folder=folder / run)
    code = await command.run()
    return code, command.stdout, command.stderr


def present(service: str) -> str:
    """The revision of a service's store that the present code needs."""
    return needed_by(MIGRATIONS[service]).revision


def said_to_migrate(release: Release) -> list[str]:
    """What the migration of a release's stores says it did, store by store."""
    steps = ((release.schemas[service.replace("-", "_")], present(service)) for service in REGISTRIES)
    return [f"at {new}, nothing to do" if old == new else f"from {old} to {new}" for old, new in steps]


def test_the_table_of_releases_says_what_the_code_needs() -> None:
    now, previous, *_ = releases()
    assert (now.version, now.commit) == (version("junctor"), "")
    assert now.schemas == {service.replace("-", "_"): present(service) for service in REGISTRIES}
    for store, revision in previous.schemas.items():
        oldest_code = needed_by(MIGRATIONS[store.replace("_", "-")]).compatible_from
        assert oldest_code <= revision, f"the release before must be able to use {store}"


@pytest.fixture(params=releases()[1:], ids=lambda release: release.version)
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Release, Path]:
    """Each earlier release in turn, and its server."""
    return request.param, installed(request.param, folder_of_the_run(tmp_path_factory)) / "junctord"


async def test_the_release_before_works_on_the_schema_of_this_one(
    engine: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    junctord = installed(before(), folder_of_the_run(tmp_path_factory)) / "junctord"
    assert (await migrate(tmp_path))[0] == 0
    async with registries(tmp_path, junctord) as old:
        made = await old.fill()
        await old.create("m2")
        _, token = await old.watch()
        await old.describe("m2", "by the release before")
        await old.delete("m2")
        made[1] = await old.describe("m1", "changed")
        assert await old.read() == made
    async with registries(tmp_path, JUNCTOR_MIGRATE="false") as new:
        assert await new.read() == made
        assert await new.value() == VALUE
        assert (await new.watch(token))[0] == [("m2", False), ("m2", True), ("m1", False)]
        assert await new.discovered()
        await new.create("m3")
    async with registries(tmp_path, junctord) as old:  # rolled back
        assert (await old.model("m3")).name == "m3"
        assert (await old.describe("m3", "by the release before")).description == "by the release before"
        assert await old.read() == made


async def test_data_of_each_release_lives_on_through_a_migration(
    engine: str, tmp_path: Path, old: tuple[Release, Path]
) -> None:
    release, junctord = old
    async with registries(tmp_path, junctord, JUNCTOR_MIGRATE="true") as running:
        made = await running.fill()
        _, token = await running.watch()
        if release == before():  # the servers of this one go on meanwhile
            await upgraded(tmp_path, release)
            assert await running.read() == made
        await running.create("m2")
        with pytest.raises(ResourceNotFound):
            await running.model("m3")
    if release != before():
        await upgraded(tmp_path, release)
    async with registries(tmp_path, JUNCTOR_MIGRATE="false") as new:
        assert await new.read() == made
        assert await new.value() == VALUE
        assert (await new.watch(token))[0] == [("m2", False)]
        assert await new.discovered()


async def upgraded(folder: Path, release: Release) -> None:
    """Migrate the stores that a release made."""
    code, output, errors = await migrate(folder)
    assert code == 0, errors
    lines = [line for line in output.splitlines() if not line.startswith("metering: ")]
    assert [line.rpartition(": ")[2] for line in lines] == said_to_migrate(release)


async def test_two_migrations_at_once_queue_and_the_second_finds_nothing_to_do(engine: str, tmp_path: Path) -> None:
    both = await asyncio.gather(*(migrate(tmp_path, ["model-registry"], run=f"migrate{n}") for n in range(2)))
    assert [code for code, _, _ in both] == [0, 0], both
    said = sorted(output.rpartition(": ")[2].strip() for _, output, _ in both)
    newest = present("model-registry")
    assert said == [f"at {newest}, nothing to do", f"from nothing to {newest}"]


async def rewrite(url: str, schema: str, *, revision: str, compatible_from: str) -> None:
    """Let a schema say of itself what another release would have written."""
    database = open_database(url, schema=schema)
    try:
        async with database.write() as tx:
            await tx.execute(text("UPDATE schema_version SET version_num = :r"), {"r": revision})
            await tx.run_sync(record, compatible_from)
    finally:
        await database.close()


async def refusal(folder: Path, service: str) -> str:
    """Start one service that is expected to refuse; return its only line."""
    arguments = (service, *flags(folder), "--grpc-port", str(free_port()))
    async with process("junctord", *arguments, folder=folder / "refusing") as refusing:
        assert await refusing.ended() == 1
        said = refusing.stderr
        (folder / "refusing" / "stderr").unlink()
    assert said.count("\n") == 1, said
    return said


async def test_a_server_refuses_a_schema_that_is_missing_older_or_not_for_it(postgres_url: str, tmp_path: Path) -> None:
    service = "model-registry"  # what is looked at, and what is said, is the same code for all of them
    (tmp_path / "postgresql.url").write_text(postgres_url)
    schema = service.replace("-", "_")
    run = f"run: junctord {service} migrate --database-url …\n"
    said = await refusal(tmp_path, service)
    assert said.startswith("junctor: the database ")
    assert said.endswith(f"has no schema {schema} yet; {run}")
    assert (await migrate(tmp_path, [service]))[0] == 0
    await rewrite(postgres_url, schema, revision="0001", compatible_from="0001")
    assert f"has schema {schema} at revision 0001, and this release needs {present(service)}; {run}" in (
        await refusal(tmp_path, service)
    )
    await rewrite(postgres_url, schema, revision="0009", compatible_from="0008")
    assert "is at revision 0009, which only releases from revision 0008 on may use" in await refusal(tmp_path, service)
    code, _, errors = await migrate(tmp_path, [service])
    assert code == 1
    assert "run a newer release of junctor" in errors


async def test_the_command_names_no_password_and_says_what_was_done(postgres_url: str, tmp_path: Path) -> None:
    url = postgres_url.replace("postgres@", "postgres:geheim@")
    (tmp_path / "postgresql.url").write_text(url)
    code, output, errors = await migrate(tmp_path)
    assert (code, errors) == (0, "")
    lines = [line for line in output.splitlines() if not line.startswith("metering: ")]
    assert [line.partition(":")[0] for line in lines] == list(REGISTRIES)
    assert [line.rpartition(" to ")[2] for line in lines] == [present(service) for service in REGISTRIES]
    assert output.count(": from nothing to ") == len(REGISTRIES) + 1
    (tmp_path / "postgresql.url").write_text("postgresql://somebody:geheim@127.0.0.1:1/x")
    code, none, errors = await migrate(tmp_path, run="unreachable")
    assert (code, none) == (1, "")
    assert errors.startswith("junctord: cannot reach the database x on 127.0.0.1")
    assert "geheim" not in output + errors


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        pytest.param(["gateway", "migrate"], "gateway has no database to migrate", id="no store"),
        pytest.param(["migrate"], "'migrate' comes after the services", id="no service"),
        pytest.param(["migrate", "model-registry"], "'migrate' comes after the services", id="wrong order"),
    ],
)
def test_the_command_is_used_as_its_help_says(
    arguments: list[str], rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert rule in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", [["junctor", "up", "--no-demo", "--no-detect"], ["junctord", *REGISTRIES, "--migrate"]]
)
async def test_up_migrates_by_itself_and_junctord_if_it_is_told_to(
    command: list[str], postgres_url: str, tmp_path: Path
) -> None:
    script, *arguments = command
    port = free_port()
    arguments += ["--grpc-port", str(port), "--database-url", postgres_url, "--data-dir", str(tmp_path / "data")]
    arguments += ["--port", str(free_port())]
    async with process(script, *arguments, folder=tmp_path / "home", JUNCTOR_SEED="false") as running:
        peer = open_peer(f"127.0.0.1:{port}", name="registries")
        try:
            await until(Registries(peer, running).serves)
        finally:
            await peer.close()
