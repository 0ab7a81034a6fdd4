"""Providers over gRPC: what a caller writes, reads and watches."""

import asyncio
from contextlib import aclosing

import pytest
import pytest_asyncio

from junctor.errors import (
    InvalidField,
    MalformedRequest,
    ResourceExists,
    ResourceNotFound,
    SecretMissing,
    StaleVersion,
    WorkspaceMissing,
)
from junctor.v1 import provider_registry_pb2 as pb
from junctor.v1 import secrets_pb2 as spb
from junctor.v1 import watch_pb2
from junctor.v1 import workspaces_pb2 as wpb
from services.provider_registry.attempt import Pace
from tests.provider_plane import running, until

URL = "http://127.0.0.1:9"
pytestmark = pytest.mark.usefixtures("engine")


@pytest_asyncio.fixture
async def plane(tmp_path):
    async with running(tmp_path) as running_plane:
        yield running_plane


def listed(plane, **query):
    return plane.public.call(plane.providers.ListProviders, pb.ListProvidersRequest(**query))


def put(plane, mask, *, allow_missing=False, **fields):
    provider = pb.Provider(**({"workspace": "default", "name": "up1"} | fields))
    request = pb.UpdateProviderRequest(provider=provider, update_mask={"paths": mask}, allow_missing=allow_missing)
    return plane.public.call(plane.providers.UpdateProvider, request)


async def test_a_created_provider_has_the_contracts_first_state(plane):
    created = await plane.create("up1", URL, description="mine", model_deployment_id="d1")
    assert created.id.startswith("model-provider-")
    assert (created.status, created.status_message) == (pb.PROVIDER_STATUS_CREATED, "Model provider created")
    assert (created.description, created.model_deployment_id, created.generation) == ("mine", "d1", 1)
    assert created.HasField("auth_context")
    assert created.HasField("next_attempt")
    assert not created.served_models
    for absent in ("project", "enabled_models", "default_extra_body", "auth_header_format", "last_attempt"):
        assert not created.HasField(absent)


async def test_what_the_server_sets_cannot_be_written_by_a_caller(plane):
    created = await plane.create(
        "up1",
        URL,
        id="x",
        status=pb.PROVIDER_STATUS_READY,
        served_models=[pb.ServedModelMapping(model_entity_id="default/m", served_model_name="m")],
        generation=7,
        created_by="me",
    )
    assert created.id != "x"
    assert (created.status, created.generation, created.created_by) == (pb.PROVIDER_STATUS_CREATED, 1, "")
    assert not created.served_models
    with pytest.raises(InvalidField, match="'status' cannot be written"):
        await put(plane, ["status"], status=pb.PROVIDER_STATUS_READY)


async def test_texts_of_the_contract(plane):
    await plane.create("up1", URL)
    with pytest.raises(
        ResourceExists, match=r"^Model provider with workspace 'default' and name 'up1' already exists$"
    ):
        await plane.create("up1", URL)
    for call in (plane.get("nope"), plane.delete("nope"), plane.update("nope", description="x")):
        with pytest.raises(ResourceNotFound, match=r"^Model provider not found: default/nope$"):
            await call
    with pytest.raises(WorkspaceMissing, match=r"^Workspace 'nope' does not exist\. Please create"):
        await plane.create("up1", URL, workspace="nope")
    with pytest.raises(ResourceNotFound, match=r"^Workspace 'nope' not found$"):
        await listed(plane, workspace="nope")


@pytest.mark.parametrize("name", ["k1", "system/k1", "", "k2"])
async def test_a_secret_that_is_not_in_the_providers_workspace_is_missing(plane, name):
    await plane.secret("k1", "value", workspace="system")
    with pytest.raises(SecretMissing, match=rf"^Secret '{name}' not found in workspace 'default'$"):
        await plane.create("up1", URL, api_key_secret_name=name)
    await plane.create("up1", URL)
    with pytest.raises(SecretMissing):
        await plane.update("up1", api_key_secret_name=name)


async def test_invalid_fields_are_refused_on_create_and_update(plane):
    with pytest.raises(InvalidField, match=r"host_url.*description"):
        await plane.create("up1", "nope", description="d" * 1001)
    await plane.create("up1", URL)
    with pytest.raises(InvalidField, match="host_url"):
        await plane.update("up1", host_url="")
    with pytest.raises(MalformedRequest, match="Authorization header is not allowed in default_extra_headers"):
        await plane.update("up1", default_extra_headers={"values": {"Authorization": "x"}})


async def test_an_update_writes_the_fields_of_its_mask_alone(plane):
    created = await plane.create("up1", URL, description="a", enabled_models={"values": ["m1"]}, max_concurrency=3)
    changed = await put(plane, ["description", "enabled_models"], host_url="http://ignored", project="ignored")
    assert (changed.host_url, changed.max_concurrency) == (URL, 3)
    for cleared in ("description", "enabled_models", "project"):
        assert not changed.HasField(cleared)
    assert changed.generation == 2
    assert int(changed.resource_version) > int(created.resource_version)
    emptied = await put(plane, ["enabled_models"], enabled_models={})
    assert emptied.HasField("enabled_models")
    assert list(emptied.enabled_models.values) == []


async def test_an_update_that_changes_nothing_is_no_change(plane):
    created = await plane.create("up1", URL, description="a", static_models={"values": []})
    ready = await plane.ready("up1")
    same = await plane.update("up1", description="a", host_url=URL)
    assert (same.generation, same.resource_version) == (created.generation, ready.resource_version)


async def test_a_status_is_no_new_generation(plane):
    await plane.create("up1", URL)
    changed = await plane.set_status("up1", status=pb.PROVIDER_STATUS_ERROR)
    assert (changed.status, changed.generation) == (pb.PROVIDER_STATUS_ERROR, 1)
    assert changed.status_message
    assert changed.status_changed_at.ToMicroseconds() > changed.created_at.ToMicroseconds()
    deployed = await plane.set_status("up1", model_deployment_id="d1")
    assert (deployed.model_deployment_id, deployed.status) == ("d1", pb.PROVIDER_STATUS_ERROR)
    with pytest.raises(ResourceNotFound, match="Model provider not found: default/nope"):
        await plane.set_status("nope", status=pb.PROVIDER_STATUS_ERROR)
    with pytest.raises(InvalidField, match="served_models"):
        await plane.set_status("up1", served_models={"values": [{"model_entity_id": "other/m"}]})


async def test_an_upsert_creates_what_is_missing_and_updates_what_is_there(plane):
    made = await put(plane, ["host_url"], allow_missing=True, host_url=URL, description="all of it")
    assert (made.status, made.description) == (pb.PROVIDER_STATUS_CREATED, "all of it")
    again = await put(plane, ["host_url"], allow_missing=True, host_url=URL + "/v1", description="not this")
    assert (again.id, again.host_url, again.description) == (made.id, URL + "/v1", "all of it")
    with pytest.raises(InvalidField, match="name"):
        await put(plane, ["host_url"], allow_missing=True, host_url=URL, name="Bad")


async def test_a_stale_version_is_refused_on_update_and_delete(plane):
    created = await plane.create("up1", URL)
    await plane.update("up1", description="newer")
    with pytest.raises(StaleVersion):
        await put(plane, ["description"], resource_version=created.resource_version)
    request = pb.DeleteProviderRequest(workspace="default", name="up1", resource_version=created.resource_version)
    with pytest.raises(StaleVersion):
        await plane.public.call(plane.providers.DeleteProvider, request)
    assert (await plane.get("up1")).description == "newer"


async def test_a_request_id_makes_a_create_idempotent(plane):
    provider = pb.Provider(workspace="default", name="up1", host_url=URL)
    request = pb.CreateProviderRequest(provider=provider, request_id="once")
    first = await plane.public.call(plane.providers.CreateProvider, request)
    second = await plane.public.call(plane.providers.CreateProvider, request)
    assert (second.id, second.created_at) == (first.id, first.created_at)


async def test_of_concurrent_creates_one_wins(plane):
    results = await asyncio.gather(*(plane.create("up1", URL) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(result, pb.Provider) for result in results) == 1
    assert sum(isinstance(result, ResourceExists) for result in results) == 7


async def test_lists_filter_and_sort_by_status_and_carry_the_attempts(tmp_path):
    # With the pace of the other tests, discovery would soon succeed again, and replace the status set by hand.
    async with running(tmp_path, pace=Pace(interval=3600)) as plane:
        await lists_filter_and_sort(plane)


async def lists_filter_and_sort(plane):
    for name in ("c1", "b1", "a1"):
        await plane.create(name, URL, description=f"d-{name}", static_models={"values": []})
        await plane.ready(name)
    await plane.set_status("b1", status=pb.PROVIDER_STATUS_LOST)
    everything = await listed(plane, workspace="default")
    assert [p.name for p in everything.providers] == ["c1", "b1", "a1"]
    assert all(p.HasField("last_attempt") and p.HasField("next_attempt") for p in everything.providers)
    lost = await listed(plane, workspace="default", filter='{"status": "LOST"}')
    assert [p.name for p in lost.providers] == ["b1"]
    none = await listed(plane, workspace="default", filter='status:"NOPE"')
    assert none.total_size == 0
    by_status = await listed(plane, workspace="-", order_by="-status")
    assert [p.name for p in by_status.providers] == ["a1", "c1", "b1"]
    like = await listed(plane, workspace="default", filter='description~"D-A"')
    assert [p.name for p in like.providers] == ["a1"]
    with pytest.raises(MalformedRequest, match="Unknown filter field 'bogus'"):
        await listed(plane, workspace="default", filter='bogus:"x"')


async def test_a_watch_has_every_change_in_order_and_resumes(plane):
    await plane.create("up1", URL, static_models={"values": ["m1"]})
    await plane.ready("up1")
    seen = []
    async with aclosing(plane.public.stream(plane.providers.WatchProviders, watch_pb2.WatchRequest())) as events:
        async for event in events:
            if event.type != watch_pb2.WATCH_EVENT_TYPE_HEARTBEAT:
                seen.append(event)
            if event.type == watch_pb2.WATCH_EVENT_TYPE_SYNCED:
                await plane.delete("up1")
            if event.type == watch_pb2.WATCH_EVENT_TYPE_DELETED:
                break
    assert [event.type for event in seen] == [
        watch_pb2.WATCH_EVENT_TYPE_UPSERTED,
        watch_pb2.WATCH_EVENT_TYPE_SYNCED,
        watch_pb2.WATCH_EVENT_TYPE_DELETED,
    ]
    assert [m.served_model_name for m in seen[-1].resource.served_models] == ["m1"]
    request = watch_pb2.WatchRequest(resume_token=seen[-2].resume_token)
    async with aclosing(plane.public.stream(plane.providers.WatchProviders, request)) as events:
        async for event in events:
            assert event.type == watch_pb2.WATCH_EVENT_TYPE_DELETED
            assert event.resource.name == "up1"
            break


async def test_what_lies_in_a_deleted_workspace_is_removed_and_the_rest_stays(plane):
    await plane.workspace("team")
    await plane.secret("k1", "value", workspace="team")
    await plane.create("up1", URL, workspace="team", static_models={"values": ["m1"]})
    await plane.create("up1", URL, static_models={"values": ["m1"]})
    gone = await plane.ready("up1", "team")
    await plane.ready("up1")
    request = wpb.DeleteWorkspaceRequest(name="team")
    await plane.access_control.call(plane.workspaces.DeleteWorkspace, request)

    async def is_empty():
        found = await listed(plane, filter='workspace:"team"', workspace="-")
        secrets = await plane.public.call(
            plane.secrets.ListSecrets, spb.ListSecretsRequest(workspace="-", filter='workspace:"team"')
        )
        return found.total_size + secrets.total_size == 0

    await until(is_empty)
    await until(lambda: any(r.provider_id == gone.id and not r.models for r in plane.models.requests))
    assert (await plane.get("up1")).status == pb.PROVIDER_STATUS_READY


async def test_a_workspace_made_again_has_neither_providers_nor_secrets_of_the_one_before(plane):
    for _ in range(3):
        await plane.workspace("team")
        await plane.secret("k1", "value", workspace="team")
        await plane.create("up1", URL, workspace="team", static_models={"values": ["m1"]})
        gone = await plane.ready("up1", "team")
        await plane.access_control.call(plane.workspaces.DeleteWorkspace, wpb.DeleteWorkspaceRequest(name="team"))
    await plane.workspace("team")
    created = await plane.create("up1", URL, workspace="team", static_models={"values": ["m1"]})
    assert created.id != gone.id
    await until(lambda: any(r.provider_id == gone.id and not r.models for r in plane.models.requests))
    assert [provider.id for provider in (await listed(plane, workspace="team")).providers] == [created.id]

    async def has_no_secret():
        found = await plane.public.call(plane.secrets.ListSecrets, spb.ListSecretsRequest(workspace="team"))
        return found.total_size == 0

    await until(has_no_secret)


async def test_a_provider_in_a_workspace_made_a_moment_ago_is_never_taken_for_orphaned(plane):
    for number in range(5):
        await asyncio.gather(plane.workspace(f"team{number}"), plane.workspace(f"other{number}"))
        await plane.create("up1", URL, workspace=f"team{number}")
    await plane.access_control.call(plane.workspaces.DeleteWorkspace, wpb.DeleteWorkspaceRequest(name="other0"))
    await plane.workspace("last1")
    await plane.create("up1", URL, workspace="last1")
    assert (await listed(plane, workspace="-")).total_size == 6


async def test_state_survives_a_restart(tmp_path):
    async with running(tmp_path) as plane:
        await plane.create("up1", URL, static_models={"values": ["m1"]}, default_extra_body=b'{"a": 1}')
        before = await plane.ready("up1")
    async with running(tmp_path) as plane:
        after = await plane.get("up1")
        for moving in ("last_attempt", "next_attempt"):
            before.ClearField(moving)
            after.ClearField(moving)
        assert after == before
