"""``request_id`` and concurrent creates, over replicas and on both engines: one request, one resource, one answer."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
import sqlalchemy as sa

from junctor.errors import InvalidField, ResourceExists
from junctor.v1 import model_registry_pb2, secrets_pb2
from services.model_registry.store import ModelStores
from services.provider_registry.schedule import Schedule
from services.provider_registry.secret_store import SecretStore
from services.provider_registry.store import MIGRATIONS
from services.runtime.auth import Secret
from services.runtime.changes import Feed
from services.runtime.keyring import Keyring, add_key
from services.runtime.resources import REQUESTS
from tests.stores import database, model_stores

pytestmark = pytest.mark.usefixtures("engine")

VALUE = Secret("1234")
REPLICAS = 3


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "config" / "secret.key"


@pytest_asyncio.fixture
async def secrets(tmp_path: Path, key_file: Path) -> AsyncIterator[SecretStore]:
    async with database(tmp_path, "provider_registry", MIGRATIONS) as opened:
        yield SecretStore(Feed(opened), Keyring.load_or_create(key_file), Schedule(opened))


@pytest_asyncio.fixture
async def replicas(tmp_path: Path) -> AsyncIterator[list[ModelStores]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(model_stores(tmp_path)) for _ in range(REPLICAS)]


def secret(name: str = "k1", **fields: str) -> secrets_pb2.Secret:
    return secrets_pb2.Secret(workspace="w1", name=name, value_version=1, **fields)


def model(**fields: str) -> model_registry_pb2.Model:
    return model_registry_pb2.Model(workspace="w1", name="m1", **fields)


async def test_the_same_secret_again_is_the_first_answer(secrets: SecretStore) -> None:
    first = await secrets.create_secret(secret(), VALUE, request_id="r1")
    assert await secrets.create_secret(secret(), VALUE, request_id="r1") == first


async def test_another_value_under_a_used_request_id_is_refused_and_changes_nothing(secrets: SecretStore) -> None:
    await secrets.create_secret(secret(), VALUE, request_id="r1")
    for other, value in ((secret(), Secret("12345")), (secret(description="d"), VALUE), (secret("k2"), VALUE)):
        with pytest.raises(InvalidField, match="request_id: was used before for another request") as caught:
            await secrets.create_secret(other, value, request_id="r1")
        assert "1234" not in caught.value.message
    assert (await secrets.reveal("w1", "k1"))[1] == VALUE


async def test_a_key_that_was_added_meanwhile_makes_no_other_request_of_it(
    secrets: SecretStore, key_file: Path
) -> None:
    first = await secrets.create_secret(secret(), VALUE, request_id="r1")
    add_key(key_file)
    assert await secrets.create_secret(secret(), VALUE, request_id="r1") == first
    with pytest.raises(InvalidField, match="request_id"):
        await secrets.create_secret(secret(), Secret("12345"), request_id="r1")


async def test_what_is_remembered_of_a_value_needs_the_key_file_to_be_guessed(secrets: SecretStore) -> None:
    await secrets.create_secret(secret(), VALUE, request_id="r1")
    async with secrets.feed.database.read() as tx:
        row = (await tx.execute(sa.select(REQUESTS))).one()
    plain = hashlib.sha256(secret().SerializeToString(deterministic=True))
    value = VALUE.reveal().encode()
    guesses = (plain.digest() + value, value, secret().SerializeToString(deterministic=True) + value)
    assert row.digest not in {hashlib.sha256(guess).hexdigest() for guess in guesses}
    assert row.digest != plain.hexdigest()
    assert value not in row.body


async def test_what_the_release_before_remembered_is_still_answered(secrets: SecretStore) -> None:
    first = await secrets.create_secret(secret(), VALUE, request_id="r1")
    plain = hashlib.sha256(secret().SerializeToString(deterministic=True)).hexdigest()
    async with secrets.transaction() as tx:
        await tx.execute(sa.update(REQUESTS).values(digest=plain))
    assert await secrets.create_secret(secret(), VALUE, request_id="r1") == first


async def test_of_concurrent_creates_through_several_replicas_one_wins(replicas: list[ModelStores]) -> None:
    ended = await asyncio.gather(
        *(replicas[number % REPLICAS].models.create(model(project=f"p{number}")) for number in range(15)),
        return_exceptions=True,
    )
    assert sorted(type(one).__name__ for one in ended) == ["Model", *["ResourceExists"] * 14]


async def test_one_request_through_several_replicas_makes_one_resource(replicas: list[ModelStores]) -> None:
    answers = await asyncio.gather(
        *(replicas[number % REPLICAS].models.create(model(), request_id="r1") for number in range(15))
    )
    assert len({answer.id for answer in answers}) == 1
    with pytest.raises(ResourceExists):
        await replicas[0].models.create(model(), request_id="r2")
