"""One resource table: writes with their revision and their log row, idempotency, versions, lists, cancellation."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa

from junctor import filters
from junctor.errors import InvalidField, ResourceExists, ResourceNotFound, StaleVersion
from junctor.v1 import model_registry_pb2 as pb
from services.model_registry.store import MIGRATIONS, ModelStores
from services.runtime.changes import CHANGES
from services.runtime.paging import ListQuery
from services.runtime.resources import REQUEST_ID_LIMIT, ResourceStore
from tests.stores import BOUND, model_stores, open_store, until, url_of

pytestmark = pytest.mark.usefixtures("engine")
Models = ResourceStore[pb.Model]


@pytest_asyncio.fixture
async def stores(tmp_path: Path) -> AsyncIterator[ModelStores]:
    async with model_stores(tmp_path) as opened:
        yield opened


@pytest.fixture
def models(stores: ModelStores) -> Models:
    return stores.models


def model(name: str, workspace: str = "w1", **fields: Any) -> pb.Model:
    return pb.Model(workspace=workspace, name=name, **fields)


async def log(store: Models) -> list[Any]:
    async with store.feed.database.read() as tx:
        return list((await tx.execute(sa.select(CHANGES).order_by(CHANGES.c.revision))).all())


async def test_a_created_resource_reads_back_as_it_was_answered(models: Models) -> None:
    created = await models.create(model("m1", description="d"))
    assert created.id.startswith("model-")
    assert len(created.id) == len("model-") + 22
    assert created.created_at == created.updated_at
    assert created.resource_version == "1"
    assert await models.get("w1", "m1") == created


async def test_a_recreated_resource_has_another_id(models: Models) -> None:
    first = await models.create(model("m1"))
    await models.delete("w1", "m1")
    assert (await models.create(model("m1"))).id != first.id


async def test_every_change_has_one_log_row_with_its_revision_in_commit_order(models: Models) -> None:
    created = await models.create(model("m1"))
    updated = await models.update("w1", "m1", lambda m: setattr(m, "project", "p"))
    revision = await models.delete("w1", "m1")
    rows = await log(models)
    assert [(row.revision, row.kind, row.deleted) for row in rows] == [
        (1, "model", False),
        (2, "model", False),
        (3, "model", True),
    ]
    assert [pb.Model.FromString(row.body) for row in rows] == [created, updated, updated]
    assert (created.resource_version, updated.resource_version, revision) == ("1", "2", 3)


async def test_an_update_that_changes_nothing_writes_nothing(models: Models) -> None:
    created = await models.create(model("m1", project="p"))
    assert await models.update("w1", "m1", lambda m: setattr(m, "project", "p")) == created
    assert len(await log(models)) == 1


async def test_what_was_rolled_back_leaves_neither_row_nor_log_nor_revision(models: Models) -> None:
    async def two_and_fail() -> None:
        async with models.transaction() as tx:
            await models.insert(tx, model("m1"))
            await models.insert(tx, model("m2"))
            raise KeyError

    with pytest.raises(KeyError):
        await two_and_fail()
    assert await log(models) == []
    assert (await models.list(ListQuery())).total_size == 0
    assert (await models.create(model("m3"))).resource_version == "1"


async def test_errors_say_what_the_contract_says(models: Models) -> None:
    await models.create(model("m1"))
    with pytest.raises(ResourceExists, match=r"^Model with workspace 'w1' and name 'm1' already exists$"):
        await models.create(model("m1"))
    for name in ("m2", "UPPER", "a\x00b", ""):
        with pytest.raises(ResourceNotFound) as caught:
            await models.get("w1", name)
        assert caught.value.message == f"Model with workspace 'w1' and name '{name}' not found"
    for workspace in ("w2", "w\x001", ""):
        with pytest.raises(ResourceNotFound):
            await models.delete(workspace, "m1")


async def test_a_stale_version_changes_nothing(models: Models) -> None:
    old = (await models.create(model("m1"))).resource_version
    newest = await models.update("w1", "m1", lambda m: setattr(m, "project", "p"), resource_version=old)
    with pytest.raises(StaleVersion) as caught:
        await models.update("w1", "m1", lambda m: setattr(m, "project", "q"), resource_version=old)
    assert caught.value.metadata["resource_version"] == newest.resource_version
    with pytest.raises(StaleVersion):
        await models.delete("w1", "m1", resource_version=old)
    assert await models.get("w1", "m1") == newest


async def test_of_concurrent_updates_of_one_version_one_wins(models: Models) -> None:
    old = (await models.create(model("m1"))).resource_version
    ended = await asyncio.gather(
        *(
            models.update("w1", "m1", lambda m, n=n: setattr(m, "project", f"p{n}"), resource_version=old)  # type: ignore[misc]
            for n in range(10)
        ),
        return_exceptions=True,
    )
    assert sorted(type(one).__name__ for one in ended) == ["Model", *["StaleVersion"] * 9]


async def test_of_concurrent_creates_of_one_name_one_wins(models: Models) -> None:
    ended = await asyncio.gather(
        *(models.create(model("m1", project=f"p{n}")) for n in range(20)), return_exceptions=True
    )
    assert sorted(type(one).__name__ for one in ended) == ["Model", *["ResourceExists"] * 19]
    assert len(await log(models)) == 1


async def test_the_same_request_id_returns_the_first_answer(models: Models) -> None:
    first = await models.create(model("m1", project="p"), request_id="r1")
    assert await models.create(model("m1", project="p"), request_id="r1") == first
    assert len(await log(models)) == 1


async def test_concurrent_creates_with_one_request_id_all_get_the_first_answer(models: Models) -> None:
    answers = await asyncio.gather(*(models.create(model("m1"), request_id="r1") for _ in range(10)))
    assert {answer.id for answer in answers} == {answers[0].id}
    assert len(await log(models)) == 1


async def test_a_request_id_is_refused_for_another_payload_or_kind(stores: ModelStores) -> None:
    await stores.models.create(model("m1"), request_id="r1")
    for other in (model("m2"), model("m1", project="q")):
        with pytest.raises(InvalidField, match="request_id: was used before for another request"):
            await stores.models.create(other, request_id="r1")
    virtual = stores.virtual_models.kind.message(workspace="w1", name="m1")
    with pytest.raises(InvalidField, match="request_id"):
        await stores.virtual_models.create(virtual, request_id="r1")


@pytest.mark.parametrize(
    ("request_id", "rule"),
    [("r" * (REQUEST_ID_LIMIT + 1), "must be at most 64 characters"), ("r\x00", "must not contain NUL")],
    ids=["long", "nul"],
)
async def test_a_request_id_that_cannot_be_kept_is_refused_and_creates_nothing(
    models: Models, request_id: str, rule: str
) -> None:
    with pytest.raises(InvalidField, match=f"request_id: {rule}"):
        await models.create(model("m1"), request_id=request_id)
    assert await log(models) == []


async def test_lists_page_sort_and_break_ties_by_name(models: Models) -> None:
    async with models.transaction() as tx:
        for name in ("m3", "m1", "m2"):
            await models.insert(tx, model(name))
        await tx.execute(sa.update(models.table).values(created_at=7))
    for order in ("created_at", "-created_at", ""):
        assert [m.name for m in (await models.list(ListQuery(order_by=order))).items] == ["m1", "m2", "m3"]
    first = await models.list(ListQuery(order_by="-name", page_size=2))
    assert ([m.name for m in first.items], first.total_size) == (["m3", "m2"], 3)
    last = await models.list(ListQuery(order_by="-name", page_size=2, page_token=first.next_page_token))
    assert ([m.name for m in last.items], last.next_page_token) == (["m1"], "")
    beyond = await models.list(ListQuery(skip=10))
    assert (list(beyond.items), beyond.next_page_token, beyond.total_size) == ([], "", 3)


@pytest.mark.parametrize(
    ("workspace", "filter_", "names"),
    [
        ("w1", "", ["a1", "b1"]),
        ("-", "", ["a1", "b1", "c2"]),
        ("", "", ["a1", "b1", "c2"]),
        ("w1", "workspace:w2", ["c2"]),
        ("w1", 'project:"p"', ["b1"]),
        ("-", "lora_enabled:true", ["c2"]),
        ("w3", "", []),
    ],
)
async def test_lists_of_a_workspace_and_its_filters(
    models: Models, workspace: str, filter_: str, names: list[str]
) -> None:
    await models.create(model("a1"))
    await models.create(model("b1", project="p"))
    await models.create(model("c2", "w2", finetuning_type="lora"))
    page = await models.list(ListQuery(workspace=workspace, filter=filters.parse(filter_)))
    assert [found.name for found in page.items] == names


async def test_writers_that_are_cancelled_anywhere_leave_a_whole_store(models: Models) -> None:
    draw = random.Random(7)
    acknowledged: list[str] = []

    async def write(name: str) -> None:
        acknowledged.append((await models.create(model(name))).name)

    for batch in range(25):
        tasks = [asyncio.create_task(write(f"m{batch}-{n}")) for n in range(4)]
        for _ in range(draw.randrange(60)):
            await asyncio.sleep(0)
        await asyncio.sleep(draw.random() * 0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(BOUND):
        last = await models.create(model("last"))
    names = {m.name for m in (await models.list(ListQuery(page_size=1000))).items}
    rows = await log(models)
    assert names >= {*acknowledged, "last"}
    assert {pb.Model.FromString(row.body).name for row in rows} == names
    assert [row.revision for row in rows] == list(range(1, int(last.resource_version) + 1))


async def test_idle_watchers_and_readers_hold_no_connection(models: Models) -> None:
    await models.create(model("m1"))
    await asyncio.gather(*(models.get("w1", "m1") for _ in range(100)))
    checked_out: Any = models.feed.database.engine.pool
    assert checked_out.checkedout() == 0


async def test_a_writer_of_another_process_is_waited_for(tmp_path: Path, models: Models) -> None:
    other = open_store(tmp_path, "model_registry")
    try:
        async with other.write() as tx:
            await tx.execute(sa.text("UPDATE revision SET value = value + 1"))
            waiting = asyncio.create_task(models.create(model("m1")))
            await until(lambda: models.feed.database.engine.pool.checkedout() == 1)  # type: ignore[attr-defined]
            assert not waiting.done()
        async with asyncio.timeout(BOUND):
            assert (await waiting).resource_version == "2"
    finally:
        await other.close()


STARTER = """
import asyncio, sys
from services.model_registry.store import MIGRATIONS
from services.runtime.db import open_database

async def main():
    database = open_database(sys.argv[1], schema="test")
    print("ready", flush=True)
    sys.stdin.readline()
    await database.migrate(MIGRATIONS)
    await database.close()

asyncio.run(main())
"""


def test_processes_that_start_together_migrate_once(tmp_path: Path) -> None:
    def start(url: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", STARTER, url]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    started = [start(url_of(tmp_path, "store")) for _ in range(4)]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    ended = [(process.communicate(timeout=BOUND)[1], process.returncode) for process in started]
    assert ended == [("", 0)] * 4


async def test_migrating_again_changes_nothing(tmp_path: Path, models: Models) -> None:
    created = await models.create(model("m1"))
    again = open_store(tmp_path, "model_registry")
    try:
        await again.migrate(MIGRATIONS)
    finally:
        await again.close()
    assert await models.get("w1", "m1") == created
