"""The book of keys and members: on disk, without access_control, after a restart, too old, and never forgetful."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from junctor.channel import Peer, open_peer
from junctor.errors import NotReady, Unauthenticated
from junctor.v1 import access_pb2 as pb
from junctor.v1 import access_pb2_grpc, watch_pb2
from services.access.assertions import Assertions
from services.access.authenticator import Authenticator
from services.access.book import AccessBook
from services.access.identity import Identity, Kind
from services.access.keeper import AccessKeeper
from services.access.keys import hash_of, new_key
from services.access.roles import Permission, Role
from services.access.saved import BookFile, SavedBook
from services.runtime.auth import Secret
from tests.cluster import until

UPSERTED, SYNCED = watch_pb2.WATCH_EVENT_TYPE_UPSERTED, watch_pb2.WATCH_EVENT_TYPE_SYNCED
HEARTBEAT = watch_pb2.WATCH_EVENT_TYPE_HEARTBEAT
TOKEN = Secret("t" * 40)


def record(key_id: str, value: str, **fields: object) -> pb.KeyRecord:
    key = pb.ApiKey(id=key_id, workspace="team", role=pb.ROLE_EDITOR)
    for name, at in fields.items():
        getattr(key, name).FromSeconds(int(at))  # type: ignore[call-overload]
    return pb.KeyRecord(key=key, hash=hash_of(value))


def test_keys_of_the_book() -> None:
    book, value = AccessBook(), new_key()
    book.keys.replace([record("key-1", value)])
    caller = book.key(value)
    assert caller is not None
    assert (caller.principal, caller.role_in("team"), caller.role_in("other")) == ("key:key-1", Role.EDITOR, Role.NONE)
    assert book.key(new_key()) is None
    assert book.key(hash_of(value)) is None, "what is stored lets nobody in"


def test_a_key_ends() -> None:
    book, value = AccessBook(), new_key()
    book.keys.replace([record("key-1", value, expires_at=1000)])
    assert book.key(value, now=999) is not None
    assert book.key(value, now=1000) is None
    assert dict(book.expiring()) == {"key-1": 1000}


def test_a_revoked_key_stays_so_whatever_a_snapshot_says() -> None:
    book, value = AccessBook(), new_key()
    book.keys.replace([record("key-1", value)])
    book.keys.apply(record("key-1", value, revoked_at=5), deleted=False)
    assert book.key(value) is None
    book.keys.replace([record("key-1", value)])  # the store was restored from a backup
    assert book.key(value) is None
    assert book.key_by_id("key-1") is None


def test_a_key_with_a_new_value_has_lost_the_old_one() -> None:
    book, old, new = AccessBook(), new_key(), new_key()
    book.keys.apply(record("key-bootstrap", old), deleted=False)
    book.keys.apply(record("key-bootstrap", new), deleted=False)
    assert book.key(old) is None
    assert book.key(new) is not None


def test_members_everybody_and_groups() -> None:
    book = AccessBook(frozenset({"group:root"}))
    members = [("team", "jane", [pb.ROLE_VIEWER, pb.ROLE_EDITOR]), ("open", "*", [pb.ROLE_VIEWER])]
    members += [("ops", "group:ops", [pb.ROLE_ADMIN]), ("odd", "jane", [99, pb.ROLE_PLATFORM_ADMIN])]
    book.members.replace([pb.Member(workspace=w, principal=p, roles=r) for w, p, r in members])  # type: ignore[arg-type]
    jane = book.user(Identity(Kind.USER, "jane"))
    assert dict(jane.roles) == {"team": Role.EDITOR, "open": Role.VIEWER, "odd": Role.NONE}
    assert book.user(Identity(Kind.USER, "joe", groups=frozenset({"ops"}))).role_in("ops") is Role.ADMIN
    assert book.user(Identity(Kind.USER, "joe", groups=frozenset({"root"}))).may(Permission.PLATFORM, "")
    book.members.apply(pb.Member(workspace="team", principal="jane"), deleted=True)
    assert book.user(Identity(Kind.USER, "jane")).role_in("team") is Role.NONE


def saved(*values: str, heard_at: float | None = None, revoked: tuple[str, ...] = ()) -> SavedBook:
    keys = [record(f"key-{index}", value).SerializeToString() for index, value in enumerate(values)]
    return SavedBook(time.time() if heard_at is None else heard_at, keys, [], [hash_of(value) for value in revoked])


def test_the_file_is_private_and_its_own(tmp_path: Path) -> None:
    path = tmp_path / "data" / "access.bin"
    value = new_key()
    BookFile(path, TOKEN).save(saved(value))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert value.encode() not in path.read_bytes()
    assert BookFile(path, TOKEN).load() is not None
    assert BookFile(path, Secret("x" * 40)).load() is None
    content = path.read_bytes()
    for index in range(0, len(content), 7):
        altered = bytearray(content)
        altered[index] ^= 1
        path.write_bytes(altered)
        assert BookFile(path, TOKEN).load() is None
    path.write_bytes(content[:-1])
    assert BookFile(path, TOKEN).load() is None


def test_a_file_that_cannot_be_written_is_no_end(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    BookFile(tmp_path / "taken" / "access.bin", TOKEN).save(saved())
    assert BookFile(tmp_path / "none.bin", TOKEN).load() is None


@pytest_asyncio.fixture
async def away() -> AsyncIterator[Peer]:
    """An access_control that nobody reaches."""
    peer = open_peer("127.0.0.1:1", name="access_control")
    yield peer
    await peer.close()


async def started(peer: Peer, path: Path, book: SavedBook | None, max_stale: float = 3600) -> AccessKeeper:
    file = BookFile(path, TOKEN)
    if book is not None:
        await asyncio.to_thread(file.save, book)
    keeper = AccessKeeper(peer, file, max_stale=max_stale)
    await keeper.start()
    return keeper


async def test_a_process_that_starts_alone_lets_known_keys_in(away: Peer, tmp_path: Path) -> None:
    value, gone = new_key(), new_key()
    keeper = await started(away, tmp_path / "access.bin", saved(value, gone, revoked=(gone,)))
    authenticator = Authenticator(keeper, Assertions(TOKEN))
    assert (await authenticator.prove(value)).principal == "key:key-0"
    for bad in (gone, new_key(), "nobody's"):
        with pytest.raises(Unauthenticated):
            await authenticator.prove(bad)
    await keeper.stop()


async def test_a_book_that_is_too_old_lets_nobody_in(away: Peer, tmp_path: Path) -> None:
    value = new_key()
    keeper = await started(away, tmp_path / "access.bin", saved(value, heard_at=time.time() - 3601))
    with pytest.raises(NotReady, match="not heard of for too long"):
        await Authenticator(keeper, Assertions(TOKEN)).prove(value)
    await keeper.stop()


async def test_without_a_book_nothing_is_known(away: Peer, tmp_path: Path) -> None:
    keeper = await started(away, tmp_path / "access.bin", None)
    with pytest.raises(NotReady, match="not known yet"):
        await Authenticator(keeper, Assertions(TOKEN)).prove(new_key())
    await keeper.stop()
    assert not os.path.exists(tmp_path / "access.bin"), "what is not known is not written down"


async def test_another_processes_book_is_taken_if_it_is_newer(away: Peer, tmp_path: Path) -> None:
    old, new, gone = new_key(), new_key(), new_key()
    keeper = await started(away, tmp_path / "access.bin", saved(old, gone, heard_at=time.time() - 100))
    assert not keeper.adopt(saved(new, heard_at=time.time() - 200, revoked=(gone,)))
    assert keeper.book.key(old) is not None
    assert keeper.book.key(gone) is None, "what was revoked is learned from an older book as well"
    assert keeper.adopt(saved(new, heard_at=time.time() - 50))
    assert keeper.book.key(new) is not None
    assert keeper.book.key(old) is None
    await keeper.stop()


async def test_a_book_that_grew_too_old_serves_no_assertion_that_was_known(away: Peer, tmp_path: Path) -> None:
    value = new_key()
    keeper = await started(away, tmp_path / "access.bin", saved(value, heard_at=time.time() - 3599.3))
    authenticator = Authenticator(keeper, Assertions(TOKEN))
    assertion = authenticator.assertions.write(await authenticator.prove(value))
    assert (await authenticator.asserted(assertion)).principal == "key:key-0"

    async def too_old() -> bool:
        return not keeper.usable and authenticator.asserted_known(assertion) is None

    await until(too_old)
    with pytest.raises(NotReady):
        await authenticator.asserted(assertion)
    await keeper.stop()


class SlowSync(access_pb2_grpc.AccessSyncServicer):
    """Says its revision as it was when asked, as late as a test wants."""

    def __init__(self) -> None:
        self.records = [record("key-0", new_key())]
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()
        self.asked_again = asyncio.Event()

    async def WatchKeyRecords(self, request: Any, context: Any) -> AsyncIterator[pb.KeyRecordEvent]:  # noqa: N802
        yield pb.KeyRecordEvent(type=UPSERTED, resource=self.records[0])
        yield pb.KeyRecordEvent(type=SYNCED, revision=1, resume_token="e.1")
        await self.asked_again.wait()
        yield pb.KeyRecordEvent(type=UPSERTED, resource=self.records[1], revision=2, resume_token="e.2")
        await asyncio.Event().wait()

    async def WatchMembers(self, request: Any, context: Any) -> AsyncIterator[pb.MemberEvent]:  # noqa: N802
        yield pb.MemberEvent(type=SYNCED, revision=1, resume_token="e.1")
        await self.asked_again.wait()
        yield pb.MemberEvent(type=HEARTBEAT, revision=2, resume_token="e.2")
        await asyncio.Event().wait()

    async def GetAccessRevision(self, request: Any, context: Any) -> pb.GetAccessRevisionResponse:  # noqa: N802
        revision = len(self.records)
        if self.asked.is_set():
            self.asked_again.set()
        else:
            self.asked.set()
            await self.answer.wait()
        return pb.GetAccessRevisionResponse(revision=revision)


async def test_a_new_key_does_not_take_the_answer_to_an_earlier_question(tmp_path: Path) -> None:
    sync, server = SlowSync(), grpc.aio.server()
    access_pb2_grpc.add_AccessSyncServicer_to_server(sync, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    peer = open_peer(f"127.0.0.1:{port}", name="access_control")
    keeper = await started(peer, tmp_path / "access.bin", None)

    async def synced() -> bool:
        return keeper.current and keeper.synced

    await until(synced)
    authenticator = Authenticator(keeper, Assertions(TOKEN))
    stranger = asyncio.create_task(authenticator.prove(new_key()))
    await sync.asked.wait()  # the store has told its revision, which has yet to arrive
    made = new_key()
    sync.records.append(record("key-new", made))
    mine = asyncio.create_task(authenticator.prove(made))
    await asyncio.sleep(0)
    sync.answer.set()
    with pytest.raises(Unauthenticated):
        await stranger
    assert (await mine).principal == "key:key-new"
    await keeper.stop()
    await peer.close()
    await server.stop(None)
