"""Members of workspaces: who may give which role, and what of other workspaces is seen."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from junctor.errors import InvalidField, PermissionDenied, ResourceExists, ResourceNotFound, StaleVersion
from junctor.v1 import access_pb2 as pb
from junctor.v1 import watch_pb2
from junctor.v1 import workspaces_pb2 as wpb
from services.access.identity import Kind, Limits
from services.access.roles import Role
from services.access_control.service import AccessControlService
from services.runtime.paging import ListQuery
from services.runtime.watch import Watcher
from tests.access_desk import CONTEXT, caller, calling, desk, in_an_hour
from tests.stores import BOUND, open_store

pytestmark = pytest.mark.usefixtures("engine")

ADMIN = {"default": Role.ADMIN}
PRINCIPALS = ["jane", "user@example.com", "group:search", "group:Data Team", "*", "auth0|5f7c", "a/b", "ü@x.example"]


@pytest.mark.parametrize("principal", PRINCIPALS)
async def test_a_member_is_found_by_its_principal_until_it_is_removed(tmp_path: Path, principal: str) -> None:
    async with desk(tmp_path) as at:
        with calling(caller(ADMIN)):
            made = await at.new_member(principal, pb.ROLE_EDITOR, pb.ROLE_VIEWER)
            assert (made.granted_by, list(made.roles)) == ("key:key-of-test", [pb.ROLE_VIEWER, pb.ROLE_EDITOR])
            named = {"workspace": "default", "principal": principal}
            assert await at.members.GetMember(pb.GetMemberRequest(**named), CONTEXT) == made
            with pytest.raises(ResourceExists):
                await at.new_member(principal, pb.ROLE_VIEWER)
            changed = await at.members.UpdateMember(
                pb.UpdateMemberRequest(member=pb.Member(**named, roles=[pb.ROLE_ADMIN])), CONTEXT
            )
            assert (changed.granted_at, list(changed.roles)) == (made.granted_at, [pb.ROLE_ADMIN])
            stale = pb.Member(**named, roles=[pb.ROLE_VIEWER], resource_version=made.resource_version)
            with pytest.raises(StaleVersion):
                await at.members.UpdateMember(pb.UpdateMemberRequest(member=stale), CONTEXT)
            await at.members.DeleteMember(pb.DeleteMemberRequest(**named), CONTEXT)
            with pytest.raises(ResourceNotFound):
                await at.members.GetMember(pb.GetMemberRequest(**named), CONTEXT)


BAD: dict[str, tuple[str, list[Any], str]] = {
    "nobody": ("", [pb.ROLE_VIEWER], "principal"),
    "a group of no name": ("group:", [pb.ROLE_VIEWER], "principal"),
    "a line break": ("jane\nx", [pb.ROLE_VIEWER], "principal"),
    "spaces around": (" jane", [pb.ROLE_VIEWER], "principal"),
    "long": ("x" * 321, [pb.ROLE_VIEWER], "principal"),
    "no role": ("jane", [], "roles"),
    "platform admin": ("jane", [pb.ROLE_PLATFORM_ADMIN], "roles[0]"),
    "unknown role": ("jane", [pb.ROLE_VIEWER, 9], "roles[1]"),
    "twice": ("jane", [pb.ROLE_VIEWER, pb.ROLE_VIEWER], "roles"),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_no_member_can_be_is_named(tmp_path: Path, case: str) -> None:
    principal, roles, field = BAD[case]
    async with desk(tmp_path) as at:
        with pytest.raises(InvalidField) as refused:
            await at.new_member(principal, *roles)
    assert [violation.field for violation in refused.value.violations] == [field]


REFUSED: dict[str, Any] = {
    "viewer": (caller({"default": Role.VIEWER}), PermissionDenied),
    "editor": (caller({"default": Role.EDITOR}), PermissionDenied),
    "admin elsewhere": (caller({"system": Role.ADMIN}), ResourceNotFound),
    "nobody": (caller({}), ResourceNotFound),
    "a key with models": (caller(ADMIN, models=("gpt-*",)), PermissionDenied),
    "a key with a limit": (caller(ADMIN, limits=Limits(concurrency=1)), PermissionDenied),
    "a key that ends": (caller(ADMIN, expires=in_an_hour()), PermissionDenied),
    "scopes that do not cover the role": (caller(ADMIN, scopes=("manage",)), PermissionDenied),
    "no scope to manage": (caller(ADMIN, scopes=("read", "write", "infer")), PermissionDenied),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_nobody_gives_a_role_that_they_do_not_have_in_full(tmp_path: Path, case: str) -> None:
    who, error = REFUSED[case]
    async with desk(tmp_path) as at:
        with calling(who), pytest.raises(error):
            await at.new_member("jane", pb.ROLE_EDITOR)
        assert (await at.members.ListMembers(pb.ListMembersRequest(workspace="default"), CONTEXT)).total_size == 0


async def test_an_admin_whose_token_ends_may_give_roles(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        with calling(caller(ADMIN, kind=Kind.USER, expires=in_an_hour())):
            await at.new_member("jane", pb.ROLE_ADMIN)


async def test_members_go_with_their_workspace_and_are_watched(tmp_path: Path) -> None:
    async with desk(tmp_path) as at, asyncio.timeout(BOUND):
        await at.workspaces.create(wpb.Workspace(name="lab"))
        await at.new_member("jane", pb.ROLE_ADMIN, workspace="lab")
        watched = at.sync.WatchMembers(watch_pb2.WatchRequest(), CONTEXT)
        assert (await anext(watched)).resource.principal == "jane"
        assert (await anext(watched)).type == watch_pb2.WATCH_EVENT_TYPE_SYNCED
        await at.workspaces.delete_workspace("lab", "")
        gone = await anext(watched)
        assert (gone.type, gone.resource.principal) == (watch_pb2.WATCH_EVENT_TYPE_DELETED, "jane")
        await watched.aclose()
        await at.workspaces.create(wpb.Workspace(name="lab"))
        assert (await at.members.ListMembers(pb.ListMembersRequest(workspace="lab"), CONTEXT)).total_size == 0


async def test_everybody_sees_system_from_the_first_start_and_nobody_default(tmp_path: Path) -> None:
    for turn in range(3):
        service = AccessControlService(open_store(tmp_path, "access_control"))
        await service.start()
        try:
            async with service._store.feed.database.read() as tx:
                found = [(m.workspace, m.principal, list(m.roles)) for m in await service._members.all(tx)]
            assert found == ([("system", "*", [pb.ROLE_VIEWER])] if turn < 2 else [])
            if turn == 1:  # what somebody takes away stays away
                await service._members.delete("system", "*")
        finally:
            await service.stop()


async def test_of_other_workspaces_nothing_is_listed_or_watched(tmp_path: Path) -> None:
    async with desk(tmp_path) as at, asyncio.timeout(BOUND):
        for name in ("lab", "other"):
            await at.workspaces.create(wpb.Workspace(name=name))
            await at.new_member("jane", pb.ROLE_VIEWER, workspace=name)
        with calling(caller({"lab": Role.VIEWER})):
            assert [w.name for w in (await at.workspaces.list(ListQuery())).items] == ["lab"]
            assert [m.workspace for m in (await at.member_store.list(ListQuery(workspace="other"))).items] == []
            workspaces = Watcher(at.workspaces).events("")
            members = Watcher(at.member_store).events("")
            assert [(await anext(each)).resource is not None for each in (workspaces, members)] == [True, True]
            assert [(await anext(each)).type for each in (workspaces, members)] == [
                watch_pb2.WATCH_EVENT_TYPE_SYNCED
            ] * 2
        await at.workspaces.update("", "other", lambda w: setattr(w, "description", "hidden"))
        await at.workspaces.update("", "lab", lambda w: setattr(w, "description", "seen"))
        with calling(caller({"lab": Role.VIEWER})):
            told = [await anext(workspaces)]
            while told[-1].resource is None:
                told.append(await anext(workspaces))
        assert told[-1].resource is not None
        assert told[-1].resource.description == "seen"
        for each in (workspaces, members):
            await each.aclose()  # type: ignore[attr-defined]
