"""API keys: what is stored of them, who may make which, and what a deleted workspace leaves of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from junctor.errors import InvalidField, PermissionDenied, ResourceNotFound
from junctor.v1 import access_pb2 as pb
from junctor.v1 import watch_pb2
from junctor.v1 import workspaces_pb2 as wpb
from services.access.identity import Kind, Limits
from services.access.keys import hash_of, is_key
from services.access.roles import Role
from services.access_control import bootstrap
from services.runtime.auth import Secret
from services.runtime.failures import CannotStart
from tests.access_desk import CONTEXT, caller, calling, desk, in_an_hour
from tests.stores import BOUND

pytestmark = pytest.mark.usefixtures("engine")

ADMIN = {"default": Role.ADMIN}


async def test_a_value_is_told_once_and_only_its_hash_is_stored(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        made = await at.new_key(description="ci", tags={"team": "search"})
        assert is_key(made.value)
        assert made.value.startswith(made.key.prefix)
        assert (await at.key_store.get_key(made.key.id)).hash == hash_of(made.value)
        assert made.value.encode() not in await at.bodies()
        assert made.value[len(made.key.prefix) :].encode() not in await at.bodies()
        assert await at.keys.GetKey(pb.GetKeyRequest(id=made.key.id), CONTEXT) == made.key
        assert "hash" not in pb.ApiKey.DESCRIPTOR.fields_by_name


async def test_the_same_request_id_makes_one_key_and_tells_its_value_once(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        request = pb.CreateKeyRequest(key=pb.ApiKey(role=pb.ROLE_VIEWER, workspace="default"), request_id="r-1")
        first, again = [await at.keys.CreateKey(request, CONTEXT) for _ in range(2)]
        assert first.key == again.key
        assert (bool(first.value), again.value) == (True, "")
        assert (await at.keys.ListKeys(pb.ListKeysRequest(), CONTEXT)).total_size == 1


BAD: dict[str, tuple[dict[str, Any], set[str]]] = {
    "role": ({"role": 0}, {"role"}),
    "workspace of a platform admin": ({"role": pb.ROLE_PLATFORM_ADMIN, "workspace": "default"}, {"workspace"}),
    "no workspace": ({"workspace": ""}, {"workspace"}),
    "pattern": ({"models": ["ok", "", "[x]"]}, {"models[1]", "models[2]"}),
    "scope": ({"scopes": ["read", "all"]}, {"scopes[1]"}),
    "limits": ({"limits": pb.KeyLimits(requests_per_minute=0, concurrency=0)}, {"limits.requests_per_minute"}),
    "tags": ({"tags": {"a": "x\ny"}}, {"tags"}),
    "many tags": ({"tags": {str(n): "x" for n in range(17)}}, {"tags"}),
    "past": ({"expires_at": {"seconds": 1}}, {"expires_at"}),
    "description": ({"description": "x" * 201}, {"description"}),
    "all at once": ({"role": 9, "scopes": ["x"], "expires_at": {"seconds": 1}}, {"role", "scopes[0]", "expires_at"}),
}


@pytest.mark.parametrize("case", BAD)
async def test_every_bad_field_is_named(tmp_path: Path, case: str) -> None:
    fields, named = BAD[case]
    async with desk(tmp_path) as at:
        with pytest.raises(InvalidField) as refused:
            await at.new_key(**fields)
    assert {violation.field for violation in refused.value.violations} >= named


async def test_a_key_of_a_workspace_that_is_not_there_is_refused(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        with pytest.raises(ResourceNotFound):
            await at.new_key(workspace="nowhere")


ALLOWED: dict[str, tuple[Any, dict[str, Any]]] = {
    "own role": (caller(ADMIN), {"role": pb.ROLE_ADMIN}),
    "platform admin": (caller(Role.PLATFORM_ADMIN), {"role": pb.ROLE_PLATFORM_ADMIN}),
    "same patterns": (caller(ADMIN, models=("gpt-*", "lab/*")), {"models": ["gpt-*"]}),
    "fewer scopes": (caller(ADMIN, scopes=("manage", "infer")), {"scopes": ["infer"]}),
    "less of a limit": (caller(ADMIN, limits=Limits(concurrency=5)), {"limits": pb.KeyLimits(concurrency=5)}),
    "sooner": (caller(ADMIN, expires=in_an_hour()), {"expires_at": {"seconds": in_an_hour() - 60}}),
    "a user's token ends soon": (caller(ADMIN, kind=Kind.USER, expires=in_an_hour()), {}),
    "auth off": (None, {"role": pb.ROLE_PLATFORM_ADMIN}),
}
ABOVE: dict[str, tuple[Any, dict[str, Any]]] = {
    "platform admin from admin": (caller(ADMIN), {"role": pb.ROLE_PLATFORM_ADMIN}),
    "editor": (caller({"default": Role.EDITOR}), {"role": pb.ROLE_VIEWER}),
    "no patterns": (caller(ADMIN, models=("gpt-*",)), {}),
    "other patterns": (caller(ADMIN, models=("gpt-*",)), {"models": ["*"]}),
    "no scopes": (caller(ADMIN, scopes=("manage",)), {}),
    "more scopes": (caller(ADMIN, scopes=("manage",)), {"scopes": ["manage", "write"]}),
    "no manage": (caller(ADMIN, scopes=("write",)), {"scopes": ["write"]}),
    "no limit": (caller(ADMIN, limits=Limits(concurrency=5)), {"limits": pb.KeyLimits(requests_per_minute=1)}),
    "more of a limit": (caller(ADMIN, limits=Limits(concurrency=5)), {"limits": pb.KeyLimits(concurrency=6)}),
    "for ever": (caller(ADMIN, expires=in_an_hour()), {}),
    "later": (caller(ADMIN, expires=in_an_hour()), {"expires_at": {"seconds": in_an_hour() + 60}}),
}


@pytest.mark.parametrize("case", [*ALLOWED, *ABOVE])
async def test_nobody_gives_a_key_more_than_they_have(tmp_path: Path, case: str) -> None:
    who, fields = (ALLOWED | ABOVE)[case]
    async with desk(tmp_path) as at:
        with calling(who):
            if case in ALLOWED:
                made = await at.new_key(**{"role": pb.ROLE_VIEWER, **fields})
                assert made.key.created_by == (
                    "key:key-of-test" if who and who.identity.kind is Kind.KEY else "user:key-of-test" if who else ""
                )
            else:
                # A platform admin's key lies in no workspace: for who has no role there, it is as if there were none.
                with pytest.raises((PermissionDenied, ResourceNotFound)):
                    await at.new_key(**{"role": pb.ROLE_VIEWER, **fields})
        assert (await at.keys.ListKeys(pb.ListKeysRequest(), CONTEXT)).total_size == (case in ALLOWED)


async def test_keys_of_workspaces_that_the_caller_does_not_manage_are_not_there(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        mine, other = await at.new_key(), await at.new_key(workspace="system")
        platform = await at.new_key(pb.ROLE_PLATFORM_ADMIN)
        with calling(caller({"default": Role.ADMIN, "system": Role.VIEWER})):
            asked = '{"workspace":{"$in":["system","default",""]}}'  # takes the place of the request's workspace
            listed = await at.keys.ListKeys(pb.ListKeysRequest(filter=asked), CONTEXT)
            assert [key.id for key in listed.keys] == [mine.key.id]
            with pytest.raises(PermissionDenied):
                await at.keys.ListKeys(pb.ListKeysRequest(workspace="system"), CONTEXT)
            with pytest.raises(PermissionDenied):  # a workspace that it sees
                await at.keys.GetKey(pb.GetKeyRequest(id=other.key.id), CONTEXT)
        with calling(caller({"default": Role.ADMIN})):
            for hidden in (other.key.id, platform.key.id, "key-nothing", "\0", "x" * 500):
                for call, request in ((at.keys.GetKey, pb.GetKeyRequest), (at.keys.RevokeKey, pb.RevokeKeyRequest)):
                    with pytest.raises(ResourceNotFound):
                        await call(request(id=hidden), CONTEXT)


async def test_keys_are_filtered_by_their_role(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        made = await at.new_key(description="ci")
        await at.new_key(pb.ROLE_PLATFORM_ADMIN)
        for asked in (
            "role:Editor",
            "description~CI",
            f"prefix:{made.key.prefix}",
            f"id:{made.key.id}",
            "workspace:default",
        ):
            listed = await at.keys.ListKeys(pb.ListKeysRequest(filter=asked), CONTEXT)
            assert [key.id for key in listed.keys] == [made.key.id], asked


async def test_a_revoked_key_stays_revoked_and_is_watched(tmp_path: Path) -> None:
    async with desk(tmp_path) as at, asyncio.timeout(BOUND):
        made = await at.new_key()
        watched = at.sync.WatchKeyRecords(watch_pb2.WatchRequest(), CONTEXT)
        first = await anext(watched)
        assert (first.resource.key.id, first.resource.hash) == (made.key.id, hash_of(made.value))
        assert (await anext(watched)).type == watch_pb2.WATCH_EVENT_TYPE_SYNCED
        with calling(caller(Role.PLATFORM_ADMIN)):
            gone = await at.keys.RevokeKey(pb.RevokeKeyRequest(id=made.key.id), CONTEXT)
            assert (await at.keys.RevokeKey(pb.RevokeKeyRequest(id=made.key.id), CONTEXT)) == gone
        told = await anext(watched)
        assert (told.type, told.resource.key) == (watch_pb2.WATCH_EVENT_TYPE_UPSERTED, gone.key)
        await watched.aclose()
        again = at.sync.WatchKeyRecords(watch_pb2.WatchRequest(), CONTEXT)
        assert (await anext(again)).resource.key.revoked_by == "key:key-of-test"
        await again.aclose()
        revision = await at.sync.GetAccessRevision(pb.GetAccessRevisionRequest(), CONTEXT)
        assert str(revision.revision) == gone.revision
        assert (await at.keys.ListKeys(pb.ListKeysRequest(), CONTEXT)).total_size == 0
        assert (await at.keys.ListKeys(pb.ListKeysRequest(show_ended=True), CONTEXT)).total_size == 1


async def test_a_workspace_takes_its_keys_along_and_a_new_one_inherits_none(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.workspaces.create(wpb.Workspace(name="lab"))
        made = await at.new_key(workspace="lab")
        await at.workspaces.delete_workspace("lab", "")
        assert (await at.key_store.get_key(made.key.id)).key.HasField("revoked_at")
        await at.workspaces.create(wpb.Workspace(name="lab"))
        with calling(caller({"lab": Role.ADMIN})):
            assert (await at.keys.ListKeys(pb.ListKeysRequest(show_ended=True), CONTEXT)).total_size == 0
        kept = await at.keys.ListKeys(pb.ListKeysRequest(show_ended=True), CONTEXT)
        assert [key.id for key in kept.keys] == [made.key.id]


async def test_what_the_release_before_leaves_of_a_workspace_is_made_good(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.workspaces.create(wpb.Workspace(name="lab"))
        made, _ = await at.new_key(workspace="lab"), await at.new_member("jane", pb.ROLE_ADMIN, workspace="lab")
        async with at.workspaces.transaction() as tx:  # as 0.2.0 does
            await super(type(at.workspaces), at.workspaces).remove(tx, await at.workspaces.fetch(tx, "", "lab"))
        async with at.workspaces.transaction() as tx:
            await at.key_store.revoke_astray(tx)
            await at.member_store.remove_astray(tx)
            assert await at.member_store.all(tx) == []
        assert (await at.key_store.get_key(made.key.id)).key.HasField("revoked_at")


async def test_the_chosen_admin_key_is_replaced_by_a_new_value_and_stays_revoked_with_the_same(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await bootstrap.store_chosen(at.key_store, Secret("first-value-of-the-operator"))
        first = await at.key_store.get_key(bootstrap.BOOTSTRAP_ID)
        assert (first.hash, first.key.role) == (hash_of("first-value-of-the-operator"), pb.ROLE_PLATFORM_ADMIN)
        await at.keys.RevokeKey(pb.RevokeKeyRequest(id=bootstrap.BOOTSTRAP_ID), CONTEXT)
        await bootstrap.store_chosen(at.key_store, Secret("first-value-of-the-operator"))
        assert (await at.key_store.get_key(bootstrap.BOOTSTRAP_ID)).key.HasField("revoked_at")
        await bootstrap.store_chosen(at.key_store, Secret("second-value-of-the-operator"))
        second = await at.key_store.get_key(bootstrap.BOOTSTRAP_ID)
        assert second.hash == hash_of("second-value-of-the-operator")
        assert not second.key.HasField("revoked_at")


async def test_of_several_replicas_one_makes_the_first_key_and_none_if_there_is_one(tmp_path: Path) -> None:
    async with desk(tmp_path) as at, desk(tmp_path) as other:
        made = await asyncio.gather(*(bootstrap.first_key(each.key_store) for each in (at, other, at)))
        assert sum(value is not None for value in made) == 1
        [key] = (await at.keys.ListKeys(pb.ListKeysRequest(), CONTEXT)).keys
        await at.keys.RevokeKey(pb.RevokeKeyRequest(id=key.id), CONTEXT)
        assert await bootstrap.first_key(other.key_store) is not None  # else nobody could get in


@pytest.mark.parametrize("value", ["", "with space", "n\nl", "ü" * 30], ids=["empty", "space", "line", "not ASCII"])
def test_an_admin_key_that_no_header_can_carry_is_refused(value: str, tmp_path: Path, engine: str) -> None:
    (tmp_path / "key").write_text(value)
    with pytest.raises(CannotStart) as refused:
        bootstrap.chosen_key(None, tmp_path / "key")
    assert not value or value not in str(refused.value)


def test_a_short_admin_key_is_warned_of(caplog: pytest.LogCaptureFixture, tmp_path: Path, engine: str) -> None:
    (tmp_path / "key").write_text("short\n")
    assert bootstrap.chosen_key(None, tmp_path / "key") == Secret("short")
    assert "fewer than 20" in caplog.text
    assert "short" not in caplog.text.replace("shorter", "")
