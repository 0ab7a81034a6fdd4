"""Members of a workspace by the unmodified ``nemo`` CLI and ``nemo_platform`` SDK 0.3.0."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.compat.place import Place
from tests.compat.test_nemo_cli import Nemo
from tests.compat.worker import Worker

pytestmark = pytest.mark.compat

PRINCIPALS = ["user@example.com", "group:search/eu", "*"]


@pytest.fixture(scope="session")
def sdk(start: Callable[[str, str], Worker]) -> Worker:
    """The SDK."""
    return start("nemo", "nemo_sdk")


@pytest.fixture(scope="session")
def command(start: Callable[[str, str], Worker]) -> Worker:
    """The CLI, imported once."""
    return start("nemo", "nemo_cli")


@pytest.fixture
def nemo(command: Worker, place: Place) -> Nemo:
    """The CLI in the test's own workspace."""
    return Nemo(command, {"NMP_BASE_URL": place.edge.url, "NMP_WORKSPACE": place.workspace})


@pytest.mark.parametrize("principal", PRINCIPALS)
async def test_members_by_the_sdk(sdk: Worker, place: Place, principal: str) -> None:
    seen = await sdk.call("members", base_url=place.edge.url, workspace=place.workspace, principal=principal)
    assert seen["created"] == seen["created"] | {"principal": principal, "roles": ["Editor"], "granted_by": None}
    assert seen["created"]["granted_at"]
    assert [(m["principal"], m["roles"]) for m in seen["listed"]["data"]] == [(principal, ["Editor"])]
    assert seen["updated"] == seen["created"] | {
        "roles": ["Viewer", "Admin"],
        "resource_version": seen["updated"].get("resource_version"),
    }
    assert (seen["deleted"]["id"], seen["left"]["data"]) == (principal, [])


@pytest.mark.parametrize("principal", PRINCIPALS)
async def test_members_by_the_cli(nemo: Nemo, principal: str) -> None:
    members = ("workspaces", "members")
    created = await nemo(*members, "create", "--principal", principal, "--roles", "Editor", "--roles", "Viewer")
    assert created == created | {"principal": principal, "roles": ["Viewer", "Editor"]}
    assert "already exists" in await nemo(*members, "create", "--principal", principal, fails=True)
    listed = await nemo(*members, "list", "-f", "json")
    rows = listed["data"] if isinstance(listed, dict) else listed
    assert [row["principal"] for row in rows] == [principal]
    updated = await nemo(*members, "update", principal, "--roles", "Admin", "--wait-role-propagation")
    assert updated["roles"] == ["Admin"]
    assert "Deleted" in await nemo(*members, "delete", principal)
    assert "not found" in await nemo(*members, "delete", principal, fails=True)


async def test_a_role_that_is_none_is_refused_by_name(nemo: Nemo) -> None:
    told = await nemo("workspaces", "members", "create", "--principal", "jane", "--roles", "Owner", fails=True)
    assert "Viewer" in told
