"""Rows of a workspace that was deleted and made again, beside workspaces that change at the worst moment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from junctor.errors import ResourceExists, ResourceNotFound, WorkspaceMissing
from junctor.filters import parse
from junctor.v1 import model_registry_pb2 as pb
from services.model_registry.store import MIGRATIONS, ModelStores
from services.runtime.changes import Feed
from services.runtime.paging import ListQuery
from tests.stores import database

pytestmark = pytest.mark.usefixtures("engine")


class Workspaces:
    """The list as one registry has it: ``now`` is what access control would say, ``listed`` what has been heard."""

    def __init__(self) -> None:
        self.now = "a"
        self.listed = "a"
        self.gone_ids: frozenset[str] = frozenset()
        self.asked = 0

    def id_of(self, workspace: str) -> str | None:
        return self.listed

    async def confirm(self, workspace: str, workspace_id: str) -> None:
        self.asked += 1
        if workspace_id != self.now:
            raise WorkspaceMissing("gone")


@pytest.fixture
def workspaces() -> Workspaces:
    return Workspaces()


@pytest_asyncio.fixture
async def stores(workspaces: Workspaces, tmp_path: Path) -> AsyncIterator[ModelStores]:
    async with database(tmp_path, "model_registry", MIGRATIONS) as opened:
        yield ModelStores(Feed(opened), incarnations=workspaces)


def model(name: str = "m1") -> pb.Model:
    return pb.Model(workspace="w1", name=name)


async def test_what_is_known_to_be_gone_is_neither_read_nor_written(
    stores: ModelStores, workspaces: Workspaces
) -> None:
    await stores.models.create(model(), workspace_id="a")
    await stores.models.create(model("unknown"))
    workspaces.gone_ids = frozenset({"a"})
    with pytest.raises(ResourceNotFound):
        await stores.models.get("w1", "m1")
    with pytest.raises(ResourceNotFound):
        await stores.models.update("w1", "m1", lambda m: None)
    with pytest.raises(ResourceNotFound):
        await stores.models.delete("w1", "m1")
    page = await stores.models.list(ListQuery(workspace="-", filter=parse("")))
    assert ([found.name for found in page.items], page.total_size) == (["unknown"], 1)
    async with stores.feed.database.read() as tx:
        assert [found.name for found in await stores.models.all(tx)] == ["unknown"]
        assert list(await stores.models.find_all(tx, "w1", ["m1", "unknown"])) == ["unknown"]


async def test_a_name_is_free_in_the_new_workspace_and_the_old_row_goes_first(
    stores: ModelStores, workspaces: Workspaces
) -> None:
    old = await stores.models.create(model(), workspace_id="a")
    workspaces.now = "b"  # nobody has heard of it yet
    new = await stores.models.create(model(), workspace_id="b")
    assert await stores.models.get("w1", "m1") == new
    async with stores.feed.database.read() as tx:
        changes = await stores.feed.between(tx, "model", 1, 3, limit=9)
    assert [(change.deleted, pb.Model.FromString(change.body).id) for change in changes] == [
        (True, old.id),
        (False, new.id),
    ]


async def test_a_late_write_of_the_old_workspace_does_not_displace_the_new_ones(
    stores: ModelStores, workspaces: Workspaces
) -> None:
    workspaces.now = "b"
    new = await stores.models.create(model(), workspace_id="b")
    with pytest.raises(WorkspaceMissing):
        await stores.models.create(model(), workspace_id="a")
    workspaces.listed = "b"
    with pytest.raises(WorkspaceMissing):
        await stores.models.create(model("other"), workspace_id="a")
    assert await stores.models.get("w1", "m1") == new


async def test_the_usual_write_asks_nobody_again(stores: ModelStores, workspaces: Workspaces) -> None:
    await stores.models.create(model(), workspace_id="a")
    with pytest.raises(ResourceExists):
        await stores.models.create(model(), workspace_id="a")
    with pytest.raises(ResourceExists):
        await stores.models.create(model())  # access control is away: the name is taken for all that is known
    assert workspaces.asked == 0


async def test_a_name_is_free_while_access_control_is_away_if_its_workspace_is_known_to_be_gone(
    stores: ModelStores, workspaces: Workspaces
) -> None:
    await stores.models.create(model(), workspace_id="a")
    workspaces.gone_ids = frozenset({"a"})
    created = await stores.models.create(model())
    assert await stores.models.get("w1", "m1") == created
    assert await stores.places() == {("w1", None)}
