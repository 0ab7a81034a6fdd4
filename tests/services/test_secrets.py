"""Secrets: what is returned, what is stored, and who may see a value."""

import asyncio
import base64
import logging
import os
import stat
from contextlib import aclosing

import grpc
import pytest
import pytest_asyncio
import sqlalchemy as sa

from junctor.errors import (
    CredentialUnavailable,
    InvalidField,
    PermissionDenied,
    ResourceExists,
    ResourceNotFound,
    StaleVersion,
    Unauthenticated,
    WorkspaceMissing,
)
from junctor.status import from_rpc_error
from junctor.v1 import secrets_pb2 as pb
from junctor.v1 import secrets_pb2_grpc, watch_pb2
from services.provider_registry.schedule import Schedule
from services.provider_registry.secret_store import VALUES, Rewrapped, SecretStore
from services.provider_registry.secrets import Keyring, add_key
from services.provider_registry.store import MIGRATIONS
from services.runtime.auth import Secret, token_metadata
from services.runtime.changes import Feed
from services.runtime.db import open_database
from tests.provider_plane import running, token
from tests.stores import open_store
from tests.upstream import Status

VALUE = "sk-a-value-that-nobody-must-see-0123456789"


@pytest_asyncio.fixture
async def plane(tmp_path):
    async with running(tmp_path) as running_plane:
        yield running_plane


def get(plane, name, workspace="default"):
    return plane.public.call(plane.secrets.GetSecret, pb.GetSecretRequest(workspace=workspace, name=name))


def update(plane, name, **fields):
    return plane.public.call(
        plane.secrets.UpdateSecret, pb.UpdateSecretRequest(workspace="default", name=name, **fields)
    )


def delete(plane, name):
    return plane.public.call(plane.secrets.DeleteSecret, pb.DeleteSecretRequest(workspace="default", name=name))


async def access(plane, name, *, peer=None):
    peer = peer or plane.internal
    stub = secrets_pb2_grpc.SecretAccessStub(peer.channel)
    return await peer.call(stub.AccessSecret, pb.AccessSecretRequest(workspace="default", name=name))


async def test_a_value_goes_in_and_comes_out_only_where_the_token_is_shown(plane):
    created = await plane.secret("k1", VALUE)
    assert (created.workspace, created.name, created.value_version) == ("default", "k1", 1)
    assert created.id.startswith("secret-")
    assert VALUE not in str(created) + str(await get(plane, "k1"))
    answer = await access(plane, "k1")
    assert (answer.value, answer.value_version) == (VALUE, 1)
    assert answer.resource_version == created.resource_version
    with pytest.raises(Unauthenticated):
        await access(plane, "k1", peer=plane.public)


async def test_a_new_value_is_a_new_version_and_a_description_is_not(plane):
    await plane.secret("k1", VALUE)
    assert (await update(plane, "k1", description="mine")).value_version == 1
    changed = await update(plane, "k1", value="another")
    assert (changed.value_version, changed.description) == (2, "mine")
    assert (await access(plane, "k1")).value == "another"


async def test_a_stale_update_is_refused(plane):
    created = await plane.secret("k1", VALUE)
    await update(plane, "k1", value="two")
    with pytest.raises(StaleVersion):
        await update(plane, "k1", value="three", resource_version=created.resource_version)
    assert (await access(plane, "k1")).value == "two"


async def test_a_deleted_secret_is_gone_and_a_new_one_of_its_name_is_another(plane):
    first = await plane.secret("k1", VALUE)
    await delete(plane, "k1")
    for call in (get(plane, "k1"), access(plane, "k1"), delete(plane, "k1"), update(plane, "k1", value="x")):
        with pytest.raises(ResourceNotFound, match=r"^Secret default/k1 not found$"):
            await call
    second = await plane.secret("k1", "another")
    assert second.id != first.id
    assert second.value_version == 1


async def test_names_are_taken_once_in_a_workspace(plane):
    await plane.secret("k1", VALUE)
    with pytest.raises(ResourceExists, match=r"^Secret 'default/k1' already exists$"):
        await plane.secret("k1", "another")
    await plane.secret("k1", "another", workspace="system")
    assert (await access(plane, "k1")).value == VALUE
    with pytest.raises(WorkspaceMissing, match=r"^Workspace 'nope' does not exist"):
        await plane.secret("k1", VALUE, workspace="nope")


@pytest.mark.parametrize(
    "value", ["", "a\nb", "a\rb", "a\0b", "a\tb", "\x7f", "x" * 65_537, "é" * 32_769], ids=lambda v: repr(v[:3])
)
async def test_a_value_that_no_header_can_carry_is_refused_without_being_shown(plane, value):
    with pytest.raises(InvalidField) as caught:
        await plane.secret("k1", value)
    assert [violation.field for violation in caught.value.violations] == ["value"]
    assert not value or value not in caught.value.message
    await plane.secret("k1", VALUE)
    with pytest.raises(InvalidField):
        await update(plane, "k1", value=value)


async def test_the_largest_value_is_taken(plane):
    await plane.secret("k1", "x" * 65_536)
    assert len((await access(plane, "k1")).value) == 65_536


async def test_every_bad_field_is_named_at_once(plane):
    request = pb.CreateSecretRequest(secret=pb.Secret(workspace="default", name="Bad", description="d" * 1001))
    with pytest.raises(InvalidField) as caught:
        await plane.public.call(plane.secrets.CreateSecret, request)
    assert [v.field for v in caught.value.violations] == ["name", "description", "value"]


async def test_a_request_id_makes_a_create_idempotent(plane):
    request = pb.CreateSecretRequest(secret=pb.Secret(workspace="default", name="k1"), value=VALUE, request_id="once")
    first = await plane.public.call(plane.secrets.CreateSecret, request)
    assert await plane.public.call(plane.secrets.CreateSecret, request) == first


async def test_lists_have_pages_of_ten_and_no_values(plane):
    for number in range(12):
        await plane.secret(f"k{number:02}", VALUE)
    page = await plane.public.call(plane.secrets.ListSecrets, pb.ListSecretsRequest(workspace="default"))
    assert (len(page.secrets), page.total_size) == (10, 12)
    assert VALUE not in str(page)
    chosen = await plane.public.call(
        plane.secrets.ListSecrets, pb.ListSecretsRequest(workspace="-", filter='name:"k11"', order_by="-name")
    )
    assert [secret.name for secret in chosen.secrets] == ["k11"]


async def test_a_watch_tells_of_every_change_and_of_no_value(plane):
    await plane.secret("k1", VALUE)
    seen = []
    async with aclosing(plane.public.stream(plane.secrets.WatchSecrets, watch_pb2.WatchRequest())) as events:
        async for event in events:
            if event.type != watch_pb2.WATCH_EVENT_TYPE_HEARTBEAT:
                seen.append(event)
            if event.type == watch_pb2.WATCH_EVENT_TYPE_SYNCED:
                await update(plane, "k1", value="another")
                await delete(plane, "k1")
            if event.type == watch_pb2.WATCH_EVENT_TYPE_DELETED:
                break
    assert [(event.type, event.resource.value_version) for event in seen] == [
        (watch_pb2.WATCH_EVENT_TYPE_UPSERTED, 1),
        (watch_pb2.WATCH_EVENT_TYPE_SYNCED, 0),
        (watch_pb2.WATCH_EVENT_TYPE_UPSERTED, 2),
        (watch_pb2.WATCH_EVENT_TYPE_DELETED, 2),
    ]
    assert VALUE not in str(seen)


async def test_no_file_and_no_log_line_ever_has_a_value(tmp_path, caplog, upstream):
    caplog.set_level(logging.DEBUG)
    upstream.always(Status(500), path="/failing/v1/models")
    async with running(tmp_path) as plane:
        await plane.secret("k1", VALUE)
        await plane.create("up2", upstream.url, api_key_secret_name="k1")
        await plane.ready("up2")
        assert upstream.requests[0].header("authorization") == f"Bearer {VALUE}"
        await plane.create("up1", upstream.url + "/failing", api_key_secret_name="k1")
        await plane.becomes("up1", lambda p: "failed" in p.status_message)
        with pytest.raises(ResourceExists):
            await plane.secret("k1", VALUE)
        await update(plane, "k1", value=VALUE + "2")
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert any(path.suffix == ".sqlite" for path in files)
        assert any(b"up1" in path.read_bytes() for path in files)
        assert not any(VALUE.encode() in path.read_bytes() for path in files)
    assert not any(VALUE in str(vars(record)) for record in caplog.records)


async def test_a_restart_with_the_same_key_file_reads_the_values(tmp_path):
    async with running(tmp_path) as plane:
        await plane.secret("k1", VALUE)
    key_file = tmp_path / "config" / "secret.key"
    assert stat.S_IMODE(os.stat(key_file).st_mode) == 0o600
    async with running(tmp_path) as plane:
        assert (await access(plane, "k1")).value == VALUE


async def test_with_another_key_file_the_value_is_unavailable_and_says_why(tmp_path):
    async with running(tmp_path) as plane:
        await plane.secret("k1", VALUE)
    (tmp_path / "config" / "secret.key").unlink()
    async with running(tmp_path) as plane:
        with pytest.raises(CredentialUnavailable, match="is not in the secret key file"):
            await access(plane, "k1")
        assert (await get(plane, "k1")).name == "k1"


async def test_values_outlive_the_replacement_of_their_key_and_not_their_secret(tmp_path):
    path = tmp_path / "secret.key"
    database = open_database(f"sqlite:///{tmp_path / 'store.sqlite'}", schema="provider_registry")
    await database.migrate(MIGRATIONS)
    keyring = Keyring.load_or_create(path)
    store = SecretStore(Feed(database), keyring, Schedule(database))
    try:
        for number in range(3):
            secret = pb.Secret(workspace="default", name=f"k{number}", value_version=1)
            await store.create_secret(secret, Secret(f"{VALUE}{number}"))
        old = path.read_text()
        add_key(path)
        keyring.reload()
        assert await store.rewrap() == Rewrapped(3, ())
        assert await store.rewrap() == Rewrapped(0, ())
        path.write_text(path.read_text().removeprefix(old))
        fresh = SecretStore(Feed(database), Keyring.load_or_create(path), Schedule(database))
        values = await asyncio.gather(*(fresh.reveal("default", f"k{number}") for number in range(3)))
        assert [value.reveal() for _, value in values] == [f"{VALUE}{number}" for number in range(3)]
        assert [secret.value_version for secret, _ in values] == [1, 1, 1]
        for number in range(3):
            await store.delete("default", f"k{number}")
        async with database.read() as tx:
            assert (await tx.execute(VALUES.select())).all() == []
    finally:
        await database.close()


@pytest.mark.parametrize(
    ("shown", "answer"),
    [((), Unauthenticated), ("wrong", PermissionDenied), ("right", None)],
    ids=["no token", "a wrong token", "the right token"],
)
async def test_access_is_for_holders_of_the_service_token(plane, shown, answer):
    await plane.secret("k1", VALUE)
    wrong = token_metadata(Secret("another token, just as long as the right one is"))
    metadata = {(): (), "wrong": wrong, "right": token()}[shown]
    stub = secrets_pb2_grpc.SecretAccessStub(plane.public.channel)
    request = pb.AccessSecretRequest(workspace="default", name="k1")
    call = stub.AccessSecret(request, metadata=metadata)
    if answer is None:
        assert (await call).value == VALUE
        return
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = from_rpc_error(caught.value)
    assert type(error) is answer
    assert VALUE not in str(caught.value)


async def test_no_dump_of_a_store_has_a_value_in_any_coding(tmp_path, engine, upstream):
    """Every table of both stores, whether the value is in force, was replaced, or went with its secret."""
    values = [f"{VALUE}-{number}" for number in range(3)]
    async with running(tmp_path) as plane:
        await plane.secret("k1", values[0])
        await plane.secret("k2", values[1])
        await plane.create("up", upstream.url, api_key_secret_name="k1")
        await plane.ready("up")
        await update(plane, "k1", value=values[2])
        await delete(plane, "k2")
        with pytest.raises(ResourceExists):
            await plane.secret("k1", values[1])
        dumped = [await dump(tmp_path, store) for store in ("access_control", "provider_registry")]
    assert all(b"k1" in dumped[1] and b"default" in text for text in dumped)
    raw = values[0].encode()[:-2]
    codings = [raw, raw.hex().encode(), base64.b64encode(raw)[:-4], base64.b64encode(b"x" + raw)[4:-4]]
    assert [coding for coding in codings for text in dumped if coding.lower() in text.lower()] == []


async def dump(folder, store):
    """Every row of every table, and with SQLite the files as they are, the log included."""
    database = open_store(folder, store)
    try:
        async with database.read() as tx:
            tables = await tx.run_sync(
                lambda connection: sa.inspect(connection).get_table_names(schema=None if database.is_sqlite else store)
            )
            rows = [row for table in tables for row in await tx.execute(sa.text(f'SELECT * FROM "{table}"'))]
    finally:
        await database.close()
    assert rows
    files = folder.glob(f"{store}.sqlite*") if database.is_sqlite else ()
    cells = [cell if isinstance(cell, bytes) else str(cell).encode() for row in rows for cell in row]
    return b"\n".join([*cells, *(file.read_bytes() for file in files)])
