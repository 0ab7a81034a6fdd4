"""The seeded provider: made once, honest about its missing key, never made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from junctor.errors import ResourceNotFound
from junctor.v1 import provider_registry_pb2 as pb
from junctor.v1 import secrets_pb2 as spb
from junctor.v1 import secrets_pb2_grpc
from services.provider_registry import seed
from services.runtime.addresses import AddressPolicy
from services.runtime.auth import Secret
from tests.provider_plane import Plane, running

NOWHERE = AddressPolicy.parse("loopback")
"""Networks in which the seed's vendor is not: a test asks nobody outside."""
KEY = Secret("nvapi-of-the-environment")


async def key_of(plane: Plane) -> spb.Secret:
    request = spb.GetSecretRequest(workspace=seed.WORKSPACE, name=seed.SECRET_NAME)
    return await plane.public.call(plane.secrets.GetSecret, request)


async def value_of(plane: Plane) -> str:
    stub = secrets_pb2_grpc.SecretAccessStub(plane.internal.channel)
    request = spb.AccessSecretRequest(workspace=seed.WORKSPACE, name=seed.SECRET_NAME)
    return (await plane.internal.call(stub.AccessSecret, request)).value


async def test_a_deleted_seed_stays_deleted(tmp_path: Path) -> None:
    async with running(tmp_path, seed=True) as plane:
        await plane.delete(seed.NAME, seed.WORKSPACE)
    async with running(tmp_path, seed=True, seed_key=KEY) as plane:
        with pytest.raises(ResourceNotFound):
            await plane.get(seed.NAME, seed.WORKSPACE)
        with pytest.raises(ResourceNotFound):
            await key_of(plane)


async def test_what_a_user_made_of_the_seed_stays(tmp_path: Path) -> None:
    async with running(tmp_path, seed=True) as plane:
        mine = pb.Provider(workspace=seed.WORKSPACE, name=seed.NAME, description="mine")
        request = pb.UpdateProviderRequest(provider=mine, update_mask={"paths": ["description", "api_key_secret_name"]})
        await plane.public.call(plane.providers.UpdateProvider, request)
    async with running(tmp_path, seed=True, seed_key=KEY, networks=NOWHERE) as plane:
        assert (await plane.get(seed.NAME, seed.WORKSPACE)).description == "mine"
        with pytest.raises(ResourceNotFound):
            await key_of(plane)


async def test_a_provider_of_that_name_which_was_there_before_is_left_alone(tmp_path: Path) -> None:
    async with running(tmp_path) as plane:
        await plane.create(seed.NAME, "http://127.0.0.1:9", workspace=seed.WORKSPACE)
    async with running(tmp_path, seed=True) as plane:
        assert (await plane.get(seed.NAME, seed.WORKSPACE)).host_url == "http://127.0.0.1:9"


async def test_the_switch_may_be_turned_on_later(tmp_path: Path) -> None:
    async with running(tmp_path) as plane:
        await plane.create("other", "http://127.0.0.1:9")
    async with running(tmp_path, seed=True) as plane:
        assert (await plane.get(seed.NAME, seed.WORKSPACE)).status == pb.PROVIDER_STATUS_PENDING


async def test_the_key_of_the_environment_becomes_the_secret_and_a_users_stays(tmp_path: Path) -> None:
    async with running(tmp_path, seed=True, seed_key=KEY, networks=NOWHERE) as plane:
        first = await key_of(plane)
        assert (first.description, await value_of(plane)) == (seed.KEY_DESCRIPTION, KEY.reveal())
        await plane.becomes(seed.NAME, lambda p: p.HasField("last_attempt"), seed.WORKSPACE)
        request = spb.UpdateSecretRequest(workspace=seed.WORKSPACE, name=seed.SECRET_NAME, value="mine")
        await plane.public.call(plane.secrets.UpdateSecret, request)
    async with running(tmp_path, seed=True, seed_key=KEY, networks=NOWHERE) as plane:
        assert ((await key_of(plane)).id, await value_of(plane)) == (first.id, "mine")


@pytest.mark.parametrize("value", ["", "two\nlines", "x" * 65_537], ids=["empty", "two lines", "too long"])
async def test_a_value_that_is_no_key_is_not_stored(tmp_path: Path, value: str) -> None:
    async with running(tmp_path, seed=True, seed_key=Secret(value)) as plane:
        assert (await plane.get(seed.NAME, seed.WORKSPACE)).status == pb.PROVIDER_STATUS_PENDING
        with pytest.raises(ResourceNotFound):
            await key_of(plane)
