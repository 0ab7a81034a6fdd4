"""Migrations of the stores: from the first schema with data, all or nothing, and what a schema says of itself."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from junctor.errors import StoreUnavailable
from junctor.v1 import model_registry_pb2 as mpb
from junctor.v1 import virtual_models_pb2 as vpb
from services.migrate import MIGRATIONS
from services.model_registry.store import ModelStores
from services.model_registry.sync import ProviderSyncer
from services.runtime import schema
from services.runtime.changes import Feed
from services.runtime.db import Database, open_database
from services.runtime.db_start import StoreUnusable, opening
from services.runtime.schema import Schema, SchemaUnfit
from services.runtime.watch import Watcher
from services.runtime.workspaces import Judgement
from tests.stores import BOUND, open_store, until, url_of

MODELS = MIGRATIONS["model-registry"]
T0 = 1_700_000_000_000_000
"""When 0.1.0 wrote its rows, microseconds."""
STOPS = '''"""A step that never ends."""
from pathlib import Path
import time
import sqlalchemy as sa
from alembic import op
revision = "0009"
down_revision = "0003"
compatible_from = "0001"
def upgrade():
    op.create_table("half", sa.Column("id", sa.Integer, primary_key=True))
    op.execute("UPDATE models SET id = 'half-done-' || id")
    op.execute("DROP TABLE served")
    Path(r"{mark}").touch()
    time.sleep(600)
'''
MIGRATE = """import asyncio, sys
from pathlib import Path
from services.runtime.db import open_database
asyncio.run(open_database(sys.argv[1], schema=sys.argv[2]).migrate(Path(sys.argv[3])))
"""


@asynccontextmanager
async def opened(folder: Path, store: str = "model_registry") -> AsyncIterator[Database]:
    database = open_store(folder, store)
    try:
        yield database
    finally:
        await database.close()


def _to_0001(connection: sa.Connection, migrations: Path) -> None:
    """Do what 0.1.0 did at its start: the first migration, recorded in Alembic's own table."""
    config = Config()
    config.set_main_option("script_location", str(migrations))
    config.attributes["connection"] = connection
    command.upgrade(config, "0001")
    connection.execute(sa.text("ALTER TABLE schema_version RENAME TO alembic_version"))


async def make_0001(database: Database, migrations: Path) -> None:
    async with database.write() as tx:
        if not database.is_sqlite:
            await tx.execute(sa.text(f"CREATE SCHEMA {database.schema}"))
        await tx.run_sync(_to_0001, migrations)


def model_of_0_1_0(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A model's row and its change, column by column as 0.1.0 wrote them."""
    model = mpb.Model(workspace="w1", name=f"m{number}", id=f"model-{number}", resource_version=str(number))
    model.created_at.FromMicroseconds(T0)
    model.updated_at.FromMicroseconds(T0 + number)
    body = model.SerializeToString(deterministic=True)
    row = {"workspace": "w1", "name": model.name, "id": model.id, "created_at": T0, "updated_at": T0 + number}
    row |= {"revision": number, "fields": {"project": None, "lora_enabled": "false"}, "body": body}
    return row, {"revision": number, "kind": "model", "deleted": False, "body": body, "at": T0 + number}


async def fill_0001(database: Database, count: int) -> list[mpb.Model]:
    """Write ``count`` models, their changes and a request id by the tables of 0.1.0."""
    metadata = sa.MetaData()
    async with database.write() as tx:
        await tx.run_sync(metadata.reflect)
        for number in range(1, count + 1):
            row, change = model_of_0_1_0(number)
            await tx.execute(sa.insert(metadata.tables["models"]).values(row))
            await tx.execute(sa.insert(metadata.tables["changes"]).values(change))
        await tx.execute(sa.update(metadata.tables["revision"]).values(value=count))
        body = model_of_0_1_0(1)[0]["body"]
        request = {"request_id": "r1", "kind": "model", "digest": "of-another", "body": body, "at": T0}
        await tx.execute(sa.insert(metadata.tables["requests"]).values(request))
        served = {"workspace": "w1", "entity": "m1", "provider_id": "id-1", "provider": "p1"}
        await tx.execute(sa.insert(metadata.tables["served"]).values(served))
    return [mpb.Model.FromString(model_of_0_1_0(number)[0]["body"]) for number in range(1, count + 1)]


async def said(database: Database) -> Schema:
    async with database.read() as tx:
        return await tx.run_sync(schema.schema_of)


async def test_what_0_1_0_wrote_is_there_after_the_migration(engine: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        await make_0001(database, MODELS)
        written = await fill_0001(database, 3)
        epoch, _ = await position(database)
        assert await said(database) == Schema("0001", "0001")
        done = await database.migrate(MODELS)
        assert (done.before, done.after) == (Schema("0001", "0001"), Schema("0003", "0001"))
        stores = ModelStores(Feed(database))
        assert [await stores.models.get("w1", f"m{n}") for n in (1, 2, 3)] == written
        assert await position(database) == (epoch, 3)
        assert await names_after(stores, f"{epoch}.1") == ["m2", "m3"]
        created = await stores.models.create(mpb.Model(workspace="w1", name="m4"))
        assert created.resource_version == "4"
        assert (await stores.models.update("w1", "m1", lambda m: None)).id == "model-1"
        await stores.models.delete("w1", "m2")
        assert await names_after(stores, f"{epoch}.3") == ["m4", "m2"]


async def position(database: Database) -> tuple[str, int]:
    async with database.read() as tx:
        return await Feed(database).position(tx)


async def names_after(stores: ModelStores, token: str) -> list[str]:
    """Return what a Watch that resumes at ``token`` tells before it is in step."""
    found = []
    async with asyncio.timeout(BOUND):
        async for item in Watcher(stores.models).events(token):
            if item.resource is None:
                return found
            found.append(item.resource.name)
    raise AssertionError("the watch ended")


async def test_rows_without_an_id_take_their_workspaces_and_go_with_it(engine: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        await make_0001(database, MODELS)
        await fill_0001(database, 2)
        await database.migrate(MODELS)
        stores = ModelStores(Feed(database))
        assert await stores.places() == {("w1", None)}
        await stores.settle(Judgement(frozenset(), {"w1": "workspace-a"}))
        assert await stores.places() == {("w1", "workspace-a")}
        await stores.models.create(mpb.Model(workspace="w1", name="new"), workspace_id="workspace-b")
        await stores.settle(Judgement(frozenset([("w1", "workspace-a")]), {}))
        assert await stores.places() == {("w1", "workspace-b")}
        async with database.read() as tx:
            assert [model.name for model in await stores.models.all(tx)] == ["new"]


@pytest.mark.parametrize("service", MIGRATIONS)
async def test_a_migrated_schema_is_the_same_whether_it_began_with_0_1_0_or_not(
    service: str, engine: str, tmp_path: Path
) -> None:
    upgraded, made = service.replace("-", "_"), "made_at_once"
    async with opened(tmp_path, upgraded) as first, opened(tmp_path, made) as second:
        await make_0001(first, MIGRATIONS[service])
        for database in (first, second):
            await database.migrate(MIGRATIONS[service])
        assert await shape(first) == await shape(second)
        again = await first.migrate(MIGRATIONS[service])
        assert again.before == again.after


async def shape(database: Database) -> dict[str, Any]:
    def look(connection: sa.Connection) -> dict[str, Any]:
        inspector = sa.inspect(connection)
        return {
            table: (
                {column["name"]: (str(column["type"]), column["nullable"]) for column in inspector.get_columns(table)},
                sorted(str(index["name"]) for index in inspector.get_indexes(table)),
                inspector.get_pk_constraint(table)["constrained_columns"],
            )
            for table in inspector.get_table_names()
        }

    async with database.read() as tx:
        return await tx.run_sync(look)


@pytest.mark.parametrize("service", MIGRATIONS)
def test_every_migration_follows_one_other_and_says_which_code_may_use_what_it_leaves(service: str) -> None:
    scripts = list(ScriptDirectory(str(MIGRATIONS[service])).walk_revisions())[::-1]
    assert [script.revision for script in scripts] == [f"{n:04}" for n in range(1, len(scripts) + 1)]
    assert [script.down_revision for script in scripts] == [None, *(script.revision for script in scripts[:-1])]
    for script in scripts[1:]:
        assert "0001" <= script.module.compatible_from <= script.revision
        assert not hasattr(script.module, "downgrade")  # the release before runs on the newer schema instead


async def test_a_migration_that_is_killed_leaves_everything_as_it_was(engine: str, tmp_path: Path) -> None:
    mark = tmp_path / "in-the-middle"
    folder = tmp_path / "migrations"
    shutil.copytree(MODELS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "0009_stops.py").write_text(STOPS.format(mark=mark))
    async with opened(tmp_path) as database:
        await make_0001(database, MODELS)
        await fill_0001(database, 2)
        before = await shape(database)
    arguments = ["-c", MIGRATE, url_of(tmp_path, "model_registry"), "model_registry", str(folder)]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments)
    try:
        await until(mark.exists)
    finally:
        process.kill()
        await process.wait()
    async with opened(tmp_path) as database:
        assert await shape(database) == before
        assert await said(database) == Schema("0001", "0001")
        assert (await database.migrate(MODELS)).after.revision == "0003"  # its locks died with it
        stores = ModelStores(Feed(database))
        assert {(await stores.models.get("w1", name)).id for name in ("m1", "m2")} == {"model-1", "model-2"}


async def test_a_newer_schema_is_used_if_it_says_so_and_refused_if_not(engine: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        await database.migrate(MODELS)
        await stores_revision(database, "0009", compatible_from="0003")
        done = await database.migrate(MODELS)
        assert (done.before, done.after) == (Schema("0009", "0003"), Schema("0009", "0003"))
        await require(database)
        await ModelStores(Feed(database)).models.create(mpb.Model(workspace="w1", name="m1"))
        await stores_revision(database, "0009", compatible_from="0004")
        rule = "is at revision 0009, which only releases from revision 0004 on may use; this one is of revision 0003"
        for attempt in (database.migrate(MODELS), require(database)):
            with pytest.raises(SchemaUnfit, match=rule):
                await attempt
        assert await first_of(database, "alembic_version") == "0004"  # what 0.1.0 looks at, and then refuses
        with pytest.raises(StoreUnusable, match=r"^the database .* is at revision 0009"), opening(database):
            await database.prepare(MODELS)
        with pytest.raises(StoreUnavailable):
            await first_of(database, "alembic_version")  # nothing is read of a schema that is not for this release


async def stores_revision(database: Database, revision: str, *, compatible_from: str) -> None:
    async with database.write() as tx:
        await tx.execute(sa.text("UPDATE schema_version SET version_num = :r"), {"r": revision})
        await tx.run_sync(schema.record, compatible_from)


async def first_of(database: Database, table: str) -> str:
    async with database.read() as tx:
        return str((await tx.execute(sa.text(f"SELECT version_num FROM {table}"))).scalar_one())


async def require(database: Database) -> None:
    async with database.read() as tx:
        await tx.run_sync(schema.require, MODELS, database.schema)


async def test_names_are_ordered_by_their_bytes_whatever_the_databases_locale(
    postgres_url: str, tmp_path: Path
) -> None:
    (tmp_path / "postgresql.url").write_text(postgres_url)
    async with opened(tmp_path) as database:
        await make_0001(database, MODELS)
        await database.migrate(MODELS)
        # The server of the tests has no other locale to show it with.
        collations = sa.text(
            "SELECT table_name || '.' || column_name FROM information_schema.columns "
            "WHERE table_schema = :schema AND collation_name = 'C'"
        )
        async with database.read() as tx:
            found = set((await tx.execute(collations, {"schema": database.schema})).scalars())
    assert found == {f"{table}.{column}" for table in ("models", "virtual_models") for column in ("workspace", "name")}


async def test_a_migration_gives_up_rather_than_hold_writers_up(postgres_url: str, tmp_path: Path) -> None:
    (tmp_path / "postgresql.url").write_text(postgres_url)
    async with opened(tmp_path) as database, opened(tmp_path) as reader:
        await make_0001(database, MODELS)
        async with reader.read() as tx:  # as a backup does for hours
            await tx.execute(sa.text("SELECT * FROM models"))
            with pytest.raises(StoreUnusable, match="lock timeout"), opening(database):
                await database.migrate(MODELS)
        assert await said(database) == Schema("0001", "0001")
        assert (await database.migrate(MODELS)).after.revision == "0003"


async def test_links_of_a_provider_go_with_its_incarnation_of_the_workspace(engine: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        await database.migrate(MODELS)
        stores = ModelStores(Feed(database))
        syncer = ProviderSyncer(stores)
        given = {"workspace": "w1", "provider": "p1", "host_url": "http://h/v1", "provider_revision": 1}
        for entity, of in (("m1", "a"), ("m2", "b")):
            request = mpb.SyncProviderRequest(provider_id=f"id-{of}", models=[mpb.SyncedModel(entity=entity)], **given)
            await syncer.apply(request, f"workspace-{of}")
        await stores.settle(Judgement(frozenset([("w1", "workspace-a")]), {}))
        async with database.read() as tx:
            left: list[vpb.VirtualModel] = await stores.virtual_models.all(tx)
            assert [virtual.name for virtual in left] == ["m2"]
        assert await stores.places() == {("w1", "workspace-b")}


async def test_a_server_needs_no_right_to_create_anything(postgres: Any, postgres_url: str, tmp_path: Path) -> None:
    (tmp_path / "postgresql.url").write_text(postgres_url)
    name = str(sa.make_url(postgres_url).database)
    async with opened(tmp_path) as database:
        await database.migrate(MODELS)
    for statement in (  # as docs/databases.md has it
        "CREATE ROLE junctor_server LOGIN",
        "GRANT USAGE ON SCHEMA model_registry TO junctor_server",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA model_registry TO junctor_server",
    ):
        postgres.execute(statement, database=name)
    url = postgres_url.replace("postgres@", "junctor_server@")
    database = open_database(url, schema="model_registry", migrates=False)
    try:
        await database.prepare(MODELS)
        await ModelStores(Feed(database)).models.create(mpb.Model(workspace="w1", name="m1"))
        await database.migrate(MODELS)  # nothing to do, and nothing to be allowed for it
    finally:
        await database.close()
        postgres.execute("DROP OWNED BY junctor_server", database=name)
        postgres.execute("DROP ROLE junctor_server")


async def test_an_owner_of_a_schema_that_is_there_needs_no_right_on_the_database(
    postgres: Any, postgres_url: str
) -> None:
    name = str(sa.make_url(postgres_url).database)
    postgres.execute("CREATE ROLE junctor_owner LOGIN", database=name)
    postgres.execute("CREATE SCHEMA model_registry AUTHORIZATION junctor_owner", database=name)
    database = open_database(postgres_url.replace("postgres@", "junctor_owner@"), schema="model_registry")
    try:
        assert (await database.migrate(MODELS)).after.revision == "0003"
    finally:
        await database.close()
        postgres.execute("DROP OWNED BY junctor_owner", database=name)
        postgres.execute("DROP ROLE junctor_owner")
