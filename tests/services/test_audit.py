"""The record: every write with its change, without secrets, exactly once; refusals; and nothing that changes a line."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from junctor.channel import open_peer
from junctor.errors import InvalidField, MalformedRequest, PermissionDenied, ResourceNotFound
from junctor.v1 import access_pb2 as pb
from junctor.v1 import access_pb2_grpc
from junctor.v1 import model_registry_pb2 as mpb
from junctor.v1 import provider_registry_pb2 as ppb
from junctor.v1 import workspaces_pb2 as wpb
from services.access.audit import DROPPED, AuditReporter, Refusal
from services.access.roles import Role
from services.access.shipping import Shipper
from services.access_control.audit import AUDIT
from services.provider_registry.store import PROVIDER
from services.runtime import journal
from services.runtime.audit_json import LIMIT, pair
from services.runtime.auth import Access
from services.runtime.server import create_server
from tests.access_desk import CONTEXT, Desk, caller, calling, desk
from tests.stores import BOUND, model_stores, until

pytestmark = pytest.mark.usefixtures("engine")

DAY = 24 * 3600


def event(number: int, *, age: float = 0, **fields: object) -> pb.AuditEvent:
    """Something that was recorded elsewhere."""
    made = pb.AuditEvent(id=f"other.{number}", action=pb.AUDIT_ACTION_UPDATE, kind="model", workspace="default")
    made.MergeFrom(pb.AuditEvent(**fields))  # type: ignore[arg-type]
    made.time.FromNanoseconds(int((time.time() - age) * 1e9) // 1000 * 1000)
    return made


async def record(at: Desk, *events: pb.AuditEvent) -> None:
    """Ship events."""
    await at.sync.RecordAuditEvents(pb.RecordAuditEventsRequest(events=events), CONTEXT)


async def test_a_write_is_recorded_with_who_and_what_and_the_change(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        with calling(caller(Role.PLATFORM_ADMIN), method="/junctor.v1.Workspaces/UpdateWorkspace"):
            made = await at.workspaces.create(wpb.Workspace(name="lab", description="old"))
            await at.workspaces.update("", "lab", lambda workspace: setattr(workspace, "description", "new"))
            await at.workspaces.delete_workspace("lab", "")
        events = (await at.events(workspace="lab"))[::-1]
    told = [(e.action, e.kind, e.name, e.principal, e.request_id, e.method) for e in events]
    who = ("workspace", "lab", "key:key-of-test", "req-of-test", "/junctor.v1.Workspaces/UpdateWorkspace")
    assert told == [(a, *who) for a in (pb.AUDIT_ACTION_CREATE, pb.AUDIT_ACTION_UPDATE, pb.AUDIT_ACTION_DELETE)]
    assert made.created_by == "key:key-of-test"
    assert [bool(e.before) for e in events] == [False, True, True]
    assert [json.loads(getattr(events[1], side))["description"] for side in ("before", "after")] == ["old", "new"]
    assert len({e.id for e in events}) == 3


async def test_what_is_rolled_back_or_changes_nothing_is_not_recorded(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        before = await at.events()
        with pytest.raises(RuntimeError):  # noqa: PT012 - the end of the transaction is what is tested
            async with at.workspaces.transaction() as tx:
                await at.workspaces.insert(tx, wpb.Workspace(name="lab"))
                raise RuntimeError
        await at.workspaces.update("", "default", lambda _: None)
        assert await at.events() == before


async def test_a_key_is_recorded_without_value_and_hash_and_its_revocation_as_its_end(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        made = await at.new_key()
        await at.keys.RevokeKey(pb.RevokeKeyRequest(id=made.key.id), CONTEXT)
        gone, came = await at.events(filter=f"name:{made.key.id}")
        digest = (await at.key_store.get_key(made.key.id)).hash
    assert [came.action, gone.action] == [pb.AUDIT_ACTION_CREATE, pb.AUDIT_ACTION_DELETE]
    for each in (gone, came):
        assert made.value not in str(each)
        assert digest.partition(":")[2] not in str(each)


def test_credentials_of_a_provider_are_never_in_it(engine: str) -> None:
    old = ppb.Provider(name="p", default_extra_body=b'{"key":"CANARY-1"}', host_url="http://x.example")
    old.required_extra_headers.values["x-key"] = "CANARY-2"
    new = ppb.Provider()
    new.CopyFrom(old)
    new.required_extra_headers.values["x-key"] = "CANARY-3"
    before, after = pair(old, new, hidden=PROVIDER.hidden)
    assert b"CANARY" not in before + after
    assert json.loads(before)["required_extra_headers"] == {"x-key": "(hidden)"}
    assert json.loads(after)["required_extra_headers"] == {"x-key": "(hidden, changed)"}
    assert json.loads(after)["default_extra_body"] == "(hidden)"
    record = pb.KeyRecord(key=pb.ApiKey(id="key-1"), hash="CANARY-4")
    assert b"CANARY" not in b"".join(pair(None, record))  # the option of the field says so


def test_what_is_very_long_is_left_out(engine: str) -> None:
    model = mpb.Model(name="m", description="kept", prompt=json.dumps("x" * 3 * LIMIT).encode())
    shown = json.loads(pair(None, model)[1])
    assert shown["description"] == "kept"
    assert "left out" in shown["prompt"]


async def test_of_junctors_own_writes_those_are_recorded_that_users_see(tmp_path: Path) -> None:
    async with model_stores(tmp_path) as stores:
        made = await stores.models.create(mpb.Model(workspace="w1", name="m1"))
        for volatile in (frozenset({"model_providers"}), frozenset[str]()):
            stores.models._subject = journal.Subject("model", frozenset(), volatile)
            async with stores.models.transaction() as tx:
                made = await stores.models.put(tx, made, lambda model: model.model_providers.append("w1/p"))
        kept = await journal.waiting(stores.feed, limit=10)
    assert [(e.principal, e.action) for e in kept] == [
        ("service:junctor", pb.AUDIT_ACTION_CREATE),
        ("service:junctor", pb.AUDIT_ACTION_UPDATE),
    ]


@asynccontextmanager
async def shipping(folder: Path, at: Desk) -> AsyncIterator[tuple[Shipper, object]]:
    """A model registry's store, and what brings its outbox to access control over the wire."""
    server = create_server(policy={"junctor.v1.AccessSync": Access.PUBLIC}, token=None)
    server.add(access_pb2_grpc.add_AccessSyncServicer_to_server, at.sync)
    peer = open_peer(f"127.0.0.1:{await server.start('127.0.0.1', 0)}", name="access_control")
    try:
        async with model_stores(folder) as stores:
            yield Shipper(stores.feed, peer), stores
    finally:
        await peer.close()
        await server.stop(0)


async def test_an_outbox_arrives_once_even_if_it_is_shipped_twice(tmp_path: Path) -> None:
    async with desk(tmp_path) as at, shipping(tmp_path, at) as (shipper, found):
        stores = found
        with calling(caller(Role.PLATFORM_ADMIN), method="/junctor.v1.ModelRegistry/CreateModel"):
            for name in ("m1", "m2", "m3"):
                await stores.models.create(mpb.Model(workspace="default", name=name))  # type: ignore[attr-defined]
        waiting = await journal.waiting(stores.feed, limit=10)  # type: ignore[attr-defined]
        await record(at, *waiting[:2])  # as if the process had ended before it dropped them
        while await shipper.ship():
            pass
        assert await journal.waiting(stores.feed, limit=10) == []  # type: ignore[attr-defined]
        events = await at.events(filter="kind:model")
    assert sorted(e.name for e in events) == ["m1", "m2", "m3"]
    assert {e.principal for e in events} == {"key:key-of-test"}


async def test_lists_are_paged_and_filtered_by_who_what_and_when(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await record(at, *(event(n, age=n * DAY, name=f"m{n}", principal="user:jane") for n in range(1, 8)))
        names, token = list[str](), ""
        for _ in range(4):
            request = pb.ListAuditEventsRequest(page_size=2, page_token=token, filter='principal:"user:jane"')
            page = await at.audit.ListAuditEvents(request, CONTEXT)
            assert page.total_size == 7
            names, token = [*names, *(e.name for e in page.events)], page.next_page_token
            await record(at, event(100 + len(names), name="newer", principal="user:other"))
        assert (names, token) == ([f"m{n}" for n in range(1, 8)], "")
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3.5 * DAY))
        recent = await at.events(filter=f'{{"time":{{"$gte":"{since}"}},"principal":"user:jane"}}')
        assert [e.name for e in recent] == ["m1", "m2", "m3"]
        assert [e.name for e in await at.events(filter='principal:"user:jane"', skip=5)] == ["m6", "m7"]
        for bad in ({"page_size": -1}, {"page_token": "x"}, {"skip": -1}):
            with pytest.raises(InvalidField):
                await at.events(**bad)
        with pytest.raises(MalformedRequest, match="Unknown filter field 'before'"):
            await at.events(filter="before:x")


async def test_who_manages_a_workspace_sees_its_events_since_it_is_this_one(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await at.workspaces.create(wpb.Workspace(name="lab"))
        await at.new_key(workspace="lab", description="of the first lab")
        await at.workspaces.delete_workspace("lab", "")
        await at.workspaces.create(wpb.Workspace(name="lab"))
        await at.new_key(workspace="lab", description="of the second lab")
        with calling(caller({"lab": Role.ADMIN, "system": Role.VIEWER})):
            events = await at.events()
            assert {(e.workspace, e.kind, e.action) for e in events} >= {("lab", "key", pb.AUDIT_ACTION_CREATE)}
            assert {e.workspace for e in events} == {"lab"}
            assert "of the first lab" not in str(events)
            with pytest.raises(PermissionDenied):
                await at.events(workspace="system")
            with pytest.raises(ResourceNotFound):
                await at.events(workspace="default")
        assert "of the first lab" in str(await at.events())


async def test_a_tail_shows_the_newest_and_then_what_comes(tmp_path: Path) -> None:
    async with desk(tmp_path) as at, asyncio.timeout(BOUND):
        await record(at, event(1, name="old"), event(2, name="new"))
        tail = at.audit.WatchAuditEvents(pb.WatchAuditEventsRequest(newest=1), CONTEXT)
        assert (await anext(tail)).name == "new"
        coming = asyncio.ensure_future(anext(tail))
        await asyncio.sleep(0)
        await record(at, event(3, name="late", age=DAY))  # it came by an outbox that was away
        assert (await coming).name == "late"
        await tail.aclose()


async def test_the_database_refuses_to_change_a_line_or_to_drop_a_young_one(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        await record(
            at, event(1, name="young"), event(2, name="aged", age=5 * DAY), event(3, name="old", age=100 * DAY)
        )
        feed = at.workspaces.feed
        for statement in (sa.update(AUDIT).values(name="x"), sa.delete(AUDIT).where(AUDIT.c.name == "young")):
            with pytest.raises(sa.exc.DBAPIError, match="only be added to"):
                async with feed.database.write() as tx:
                    await tx.execute(statement)
        assert await at.audit_store.sweep(feed, days=90) == 1
        assert [e.name for e in await at.events(filter="kind:model")] == ["young", "aged"]


async def test_there_is_no_call_that_changes_the_record(engine: str) -> None:
    file = pb.DESCRIPTOR.services_by_name
    assert [method.name for method in file["Audit"].methods] == ["ListAuditEvents", "WatchAuditEvents"]
    assert [m.name for m in file["AccessSync"].methods if "Audit" in m.name] == ["RecordAuditEvents"]


@pytest.mark.parametrize("field", ["id", "action", "time"])
async def test_an_event_that_lacks_something_is_refused(tmp_path: Path, field: str) -> None:
    lacking = event(1)
    lacking.ClearField(field)  # type: ignore[arg-type]
    async with desk(tmp_path) as at:
        with pytest.raises(InvalidField, match=rf"events\[0\]\.{field}"):
            await record(at, lacking)


async def test_refusals_alike_are_one_line_and_what_has_no_room_is_counted(tmp_path: Path) -> None:
    clock = itertools.count(1_700_000_000_000_000_000, 1_000)  # a microsecond a call
    async with desk(tmp_path) as at:
        server = create_server(policy={"junctor.v1.AccessSync": Access.PUBLIC}, token=None)
        server.add(access_pb2_grpc.add_AccessSyncServicer_to_server, at.sync)
        peer = open_peer(f"127.0.0.1:{await server.start('127.0.0.1', 0)}", name="access_control")
        reporter = AuditReporter(peer, limit=2, clock=lambda: next(clock))
        for _ in range(5):
            reporter.refused(Refusal("", "GET /v1/models", "UNAUTHENTICATED"), request_id="r-1")
        reporter.refused(Refusal("user:jane", "PUT /\ud800\0" + "x" * 999, "PERMISSION_DENIED", workspace="lab"))
        for _ in range(3):
            reporter.refused(Refusal("", "GET /other", "UNAUTHENTICATED"))
        assert reporter.dropped == 3
        assert await reporter.ship()
        assert await reporter.ship()
        await server.stop(0)
        reporter.refused(Refusal("", "GET /later", "UNAUTHENTICATED"))
        assert not await reporter.ship()  # kept: access control is away
        await peer.close()
        events = await at.events(filter="action:REFUSED")
    told = {e.reason: (e.method[:8], e.count, e.principal, e.request_id) for e in events}
    assert told["UNAUTHENTICATED"] == ("GET /v1/", 5, "", "r-1")
    assert told["PERMISSION_DENIED"] == ("PUT /??x", 1, "user:jane", "")
    assert told[DROPPED] == ("", 3, "", "")
    assert len(events) == 3


async def test_a_reporter_ships_by_itself(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        server = create_server(policy={"junctor.v1.AccessSync": Access.PUBLIC}, token=None)
        server.add(access_pb2_grpc.add_AccessSyncServicer_to_server, at.sync)
        peer = open_peer(f"127.0.0.1:{await server.start('127.0.0.1', 0)}", name="access_control")
        reporter = AuditReporter(peer, every=0.01)
        running = asyncio.ensure_future(reporter.run())
        reporter.refused(Refusal("", "GET /a", "UNAUTHENTICATED"))

        async def arrived() -> bool:
            return [e.method for e in await at.events(filter="action:REFUSED")] == ["GET /a"]

        await until(arrived)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await peer.close()
        await server.stop(0)
