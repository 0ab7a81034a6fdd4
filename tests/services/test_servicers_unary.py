"""Every unary method of the registries' servicers, called in memory through grpcio-testing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.message_factory import GetMessageClass

from junctor import errors
from junctor.channel import Peer, open_peer
from junctor.v1 import model_registry_pb2 as mpb
from junctor.v1 import model_registry_pb2_grpc, workspaces_pb2_grpc
from junctor.v1 import provider_registry_pb2 as ppb
from junctor.v1 import secrets_pb2 as spb
from junctor.v1 import virtual_models_pb2 as vpb
from junctor.v1 import workspaces_pb2 as wpb
from services.access_control.servicer import WorkspacesServicer
from services.model_registry.servicer import ModelRegistryServicer, ProviderSyncServicer
from services.model_registry.virtual_servicer import VirtualModelsServicer
from services.provider_registry.by_hand import StatusByHand
from services.provider_registry.schedule import Schedule
from services.provider_registry.secret_servicer import SecretAccessServicer, SecretStoreServicer
from services.provider_registry.secret_store import SecretStore
from services.provider_registry.secrets import Keyring
from services.provider_registry.servicer import ProviderRegistryServicer
from services.provider_registry.store import MIGRATIONS, ProviderStore
from services.provider_registry.sync import ModelSync
from services.runtime.addresses import AddressPolicy
from services.runtime.changes import Feed
from services.runtime.db import Database
from services.runtime.workspaces import WorkspaceList
from tests.e2e.processes import free_port
from tests.grpc_testing_adapter import Ended, UnaryServer
from tests.stores import database, model_stores, serving, workspace_store

SERVICES = {
    "Workspaces": wpb.DESCRIPTOR,
    "ModelRegistry": mpb.DESCRIPTOR,
    "ProviderSync": mpb.DESCRIPTOR,
    "VirtualModels": vpb.DESCRIPTOR,
    "ProviderRegistry": ppb.DESCRIPTOR,
    "SecretStore": spb.DESCRIPTOR,
    "SecretAccess": spb.DESCRIPTOR,
}
METHODS = sorted(
    method.name
    for name, file in SERVICES.items()
    for method in file.services_by_name[name].methods
    if not method.server_streaming
)


class Registries:
    """Calls any method by its name."""

    def __init__(self, server: UnaryServer) -> None:
        self._server = server

    async def ok(self, method: str, request: Any) -> Any:
        ended = await self.end(method, request)
        assert ended.code is grpc.StatusCode.OK, ended.details
        return ended.response

    async def error(self, method: str, request: Any) -> errors.JunctorError:
        ended = await self.end(method, request)
        assert ended.code is not grpc.StatusCode.OK
        return ended.error

    async def end(self, method: str, request: Any) -> Ended:
        return await self._server.call(method, request)


@pytest_asyncio.fixture
async def registries(tmp_path: Path) -> AsyncIterator[Registries]:
    register: Any = workspaces_pb2_grpc.add_WorkspacesServicer_to_server
    register_sync: Any = model_registry_pb2_grpc.add_ProviderSyncServicer_to_server
    async with (
        workspace_store(tmp_path) as workspaces,
        model_stores(tmp_path) as models,
        database(tmp_path, "provider_registry", MIGRATIONS) as providers,
    ):
        servicer = WorkspacesServicer(workspaces)
        port = free_port()
        peer = open_peer(f"127.0.0.1:{port}", name="registries")
        listed = WorkspaceList(peer)
        sync = ProviderSyncServicer(models, listed)
        async with serving((register, servicer), (register_sync, sync), port=port):
            servicers = {
                "Workspaces": servicer,
                "ModelRegistry": ModelRegistryServicer(models, listed),
                "ProviderSync": sync,
                "VirtualModels": VirtualModelsServicer(models, listed),
                **_of_providers(providers, tmp_path, peer=peer, listed=listed),
            }
            named = {SERVICES[name].services_by_name[name]: made for name, made in servicers.items()}
            try:
                yield Registries(UnaryServer(named))
            finally:
                await peer.close()


def _of_providers(opened: Database, folder: Path, *, peer: Peer, listed: WorkspaceList) -> dict[str, Any]:
    feed, schedule = Feed(opened), Schedule(opened)
    store = ProviderStore(feed, schedule)
    secrets = SecretStore(feed, Keyring.load_or_create(folder / "secret.key"), schedule)
    by_hand = StatusByHand(store, ModelSync(peer), interval=10)
    policy = AddressPolicy.parse("public,private,loopback")
    return {
        "ProviderRegistry": ProviderRegistryServicer(
            store, secrets=secrets, workspaces=listed, policy=policy, by_hand=by_hand
        ),
        "SecretStore": SecretStoreServicer(secrets, listed),
        "SecretAccess": SecretAccessServicer(secrets),
    }


def provider(name: str = "p1", workspace: str = "default", **fields: Any) -> ppb.Provider:
    return ppb.Provider(**({"workspace": workspace, "name": name, "host_url": "http://127.0.0.1:9"} | fields))


def model(name: str = "m1", workspace: str = "default", **fields: Any) -> mpb.Model:
    return mpb.Model(workspace=workspace, name=name, **fields)


def virtual(name: str = "v1", *fallbacks: str, **fields: Any) -> vpb.VirtualModel:
    routing = vpb.Routing(fallbacks=fallbacks) if fallbacks else None
    return vpb.VirtualModel(workspace="default", name=name, routing=routing, **fields)


async def test_workspaces_life(registries: Registries) -> None:
    created = await registries.ok(
        "CreateWorkspace", wpb.CreateWorkspaceRequest(workspace=wpb.Workspace(name="w1", description="d", id="mine"))
    )
    assert created.id.startswith("workspace-")
    assert await registries.ok("GetWorkspace", wpb.GetWorkspaceRequest(name="w1")) == created
    listed = await registries.ok("ListWorkspaces", wpb.ListWorkspacesRequest(order_by="-name"))
    assert ([w.name for w in listed.workspaces], listed.total_size) == (["w1", "system", "default"], 3)
    updated = await registries.ok("UpdateWorkspace", wpb.UpdateWorkspaceRequest(workspace=wpb.Workspace(name="w1")))
    assert (updated.HasField("description"), updated.id) == (False, created.id)
    deleted = await registries.ok("DeleteWorkspace", wpb.DeleteWorkspaceRequest(name="w1"))
    assert int(deleted.revision) == int(updated.resource_version) + 1
    assert (await registries.error("GetWorkspace", wpb.GetWorkspaceRequest(name="w1"))).message == (
        "Workspace 'w1' not found"
    )


async def test_models_life(registries: Registries) -> None:
    asked = model(description="d", project="p", custom_fields=b'{"a":1}', resource_version="77")
    created = await registries.ok("CreateModel", mpb.CreateModelRequest(model=asked))
    assert (created.description, created.resource_version) == ("d", "1")
    get = mpb.GetModelRequest(workspace="default", name="m1")
    assert await registries.ok("GetModel", get) == created
    update = mpb.UpdateModelRequest(model=model(project="q"))
    update.update_mask.paths.extend(["project", "description"])
    updated = await registries.ok("UpdateModel", update)
    assert (updated.project, updated.HasField("description"), updated.custom_fields) == ("q", False, b'{"a":1}')
    listed = await registries.ok("ListModels", mpb.ListModelsRequest(workspace="default", filter='project:"q"'))
    assert list(listed.models) == [updated]
    delete = mpb.DeleteModelRequest(workspace="default", name="m1", resource_version=updated.resource_version)
    assert (await registries.ok("DeleteModel", delete)).revision == "3"
    assert isinstance(await registries.error("GetModel", get), errors.ResourceNotFound)


async def test_virtual_models_life(registries: Registries) -> None:
    asked = virtual(default_model_entity="default/m1", autoprovisioned=True)
    created = await registries.ok("CreateVirtualModel", vpb.CreateVirtualModelRequest(virtual_model=asked))
    assert (created.autoprovisioned, created.default_model_entity) == (False, "default/m1")
    get = vpb.GetVirtualModelRequest(workspace="default", name="v1")
    assert await registries.ok("GetVirtualModel", get) == created
    update = vpb.UpdateVirtualModelRequest(virtual_model=virtual("v1", "v2"))
    update.update_mask.paths.append("routing")
    updated = await registries.ok("UpdateVirtualModel", update)
    assert list(updated.routing.fallbacks) == ["v2"]
    listed = await registries.ok("ListVirtualModels", vpb.ListVirtualModelsRequest(workspace="-"))
    assert list(listed.virtual_models) == [updated]
    await registries.ok("DeleteVirtualModel", vpb.DeleteVirtualModelRequest(workspace="default", name="v1"))
    error = await registries.error("GetVirtualModel", get)
    assert error.message == "VirtualModel 'v1' not found in workspace 'default'."


async def test_providers_life(registries: Registries) -> None:
    asked = provider(description="d", api_key_secret_name="k1", status=ppb.PROVIDER_STATUS_READY)
    create = ppb.CreateProviderRequest(provider=asked)
    missing = await registries.error("CreateProvider", create)
    assert (type(missing), missing.message) == (
        errors.SecretMissing,
        "Secret 'k1' not found in workspace 'default'",
    )
    await registries.ok("CreateSecret", secret())
    created = await registries.ok("CreateProvider", create)
    assert (created.status, created.status_message) == (ppb.PROVIDER_STATUS_CREATED, "Model provider created")
    get = ppb.GetProviderRequest(workspace="default", name="p1")
    assert await registries.ok("GetProvider", get) == created
    update = ppb.UpdateProviderRequest(provider=provider(host_url="http://127.0.0.1:8"))
    update.update_mask.paths.extend(["host_url", "description"])
    updated = await registries.ok("UpdateProvider", update)
    assert (updated.host_url, updated.HasField("description")) == ("http://127.0.0.1:8", False)
    by_hand = ppb.UpdateProviderStatusRequest(workspace="default", name="p1", status=ppb.PROVIDER_STATUS_READY)
    by_hand.served_models.values.add(model_entity_id="default/m1", served_model_name="M1")
    served = await registries.ok("UpdateProviderStatus", by_hand)
    assert (served.status, [m.served_model_name for m in served.served_models]) == (ppb.PROVIDER_STATUS_READY, ["M1"])
    entity = await registries.ok("GetModel", mpb.GetModelRequest(workspace="default", name="m1"))
    assert list(entity.model_providers) == ["default/p1"]
    listed = await registries.ok("ListProviders", ppb.ListProvidersRequest(workspace="-", filter="status:READY"))
    assert list(listed.providers) == [served]
    delete = ppb.DeleteProviderRequest(workspace="default", name="p1", resource_version=served.resource_version)
    assert (await registries.ok("DeleteProvider", delete)).revision
    assert (await registries.error("GetProvider", get)).message == "Model provider not found: default/p1"


def secret(value: str = "v1", **fields: Any) -> spb.CreateSecretRequest:
    return spb.CreateSecretRequest(secret=spb.Secret(workspace="default", name="k1"), value=value, **fields)


async def test_secrets_life(registries: Registries) -> None:
    created = await registries.ok("CreateSecret", secret())
    get = spb.GetSecretRequest(workspace="default", name="k1")
    assert await registries.ok("GetSecret", get) == created
    access = spb.AccessSecretRequest(workspace="default", name="k1")
    assert (await registries.ok("AccessSecret", access)).value == "v1"
    update = spb.UpdateSecretRequest(workspace="default", name="k1", value="v2", description="d")
    updated = await registries.ok("UpdateSecret", update)
    assert (updated.value_version, updated.description) == (created.value_version + 1, "d")
    assert (await registries.ok("AccessSecret", access)).value == "v2"
    listed = await registries.ok("ListSecrets", spb.ListSecretsRequest(workspace="default"))
    assert list(listed.secrets) == [updated]
    await registries.ok("DeleteSecret", spb.DeleteSecretRequest(workspace="default", name="k1"))
    for method, request in (("GetSecret", get), ("AccessSecret", access)):
        assert (await registries.error(method, request)).message == "Secret default/k1 not found"


CHECKED: list[tuple[str, Any]] = [
    ("CreateWorkspace", wpb.CreateWorkspaceRequest(workspace=wpb.Workspace(name="w1"))),
    ("UpdateWorkspace", wpb.UpdateWorkspaceRequest(workspace=wpb.Workspace(name="nobody"))),
    ("CreateModel", mpb.CreateModelRequest(model=mpb.Model(workspace="nope", name="m1"))),
    ("UpdateModel", mpb.UpdateModelRequest(model=mpb.Model(workspace="nope", name="m1"))),
    ("CreateVirtualModel", vpb.CreateVirtualModelRequest(virtual_model=vpb.VirtualModel(workspace="no", name="v1"))),
    ("UpdateVirtualModel", vpb.UpdateVirtualModelRequest(virtual_model=vpb.VirtualModel(workspace="no", name="v1"))),
    ("CreateProvider", ppb.CreateProviderRequest(provider=provider(api_key_secret_name="absent"))),
    ("UpdateProvider", ppb.UpdateProviderRequest(provider=provider(), allow_missing=True)),
    ("UpdateProviderStatus", ppb.UpdateProviderStatusRequest(workspace="default", name="p1")),
    ("CreateSecret", secret()),
    ("UpdateSecret", spb.UpdateSecretRequest(workspace="default", name="k1", value="v")),
]


@pytest.mark.parametrize(("method", "request_"), CHECKED, ids=[row[0] for row in CHECKED])
async def test_validate_only_looks_nothing_up_and_writes_nothing(
    registries: Registries, method: str, request_: Any
) -> None:
    request_.validate_only = True
    answer = await registries.ok(method, request_)
    listed: list[tuple[str, Any, int]] = [
        ("ListWorkspaces", wpb.ListWorkspacesRequest(), 2),
        ("ListModels", mpb.ListModelsRequest(), 0),
        ("ListVirtualModels", vpb.ListVirtualModelsRequest(), 0),
        ("ListProviders", ppb.ListProvidersRequest(), 0),
        ("ListSecrets", spb.ListSecretsRequest(), 0),
    ]
    for each, query, total in listed:
        assert (await registries.ok(each, query)).total_size == total
    assert answer.resource_version == ""


async def test_a_user_takes_an_auto_provisioned_virtual_model_over_by_changing_it(registries: Registries) -> None:
    def sync(revision: int, *entities: str) -> mpb.SyncProviderRequest:
        return mpb.SyncProviderRequest(
            workspace="default",
            provider="p1",
            provider_id="id-1",
            provider_revision=revision,
            models=[mpb.SyncedModel(entity=entity) for entity in entities],
        )

    answer = await registries.ok("SyncProvider", sync(2, "v1"))
    assert (answer.revision, answer.applied) == ("2", True)
    assert not (await registries.ok("SyncProvider", sync(1))).applied
    untouched = vpb.UpdateVirtualModelRequest(virtual_model=virtual())
    assert (await registries.ok("UpdateVirtualModel", untouched)).autoprovisioned
    touched = vpb.UpdateVirtualModelRequest(virtual_model=virtual(description="mine"))
    touched.update_mask.paths.append("description")
    assert not (await registries.ok("UpdateVirtualModel", touched)).autoprovisioned
    await registries.ok("SyncProvider", sync(3))
    assert (await registries.ok("GetVirtualModel", vpb.GetVirtualModelRequest(workspace="default", name="v1"))).name


@pytest.mark.parametrize("other", ["v2", "v3"])
async def test_a_loop_of_fallbacks_is_refused_on_create_and_update(registries: Registries, other: str) -> None:
    for made in (virtual("v1", "v2"), virtual("v2", "v3")):
        await registries.ok("CreateVirtualModel", vpb.CreateVirtualModelRequest(virtual_model=made))
    if other == "v3":
        error = await registries.error(
            "CreateVirtualModel", vpb.CreateVirtualModelRequest(virtual_model=virtual("v3", "v1"))
        )
        assert "must not lead back: v3 -> v1 -> v2 -> v3" in error.message
        return
    update = vpb.UpdateVirtualModelRequest(virtual_model=virtual("v2", "v1"))
    update.update_mask.paths.append("routing")
    error = await registries.error("UpdateVirtualModel", update)
    assert error.violations[0].field == "routing.fallbacks"
    assert "must not lead back: v2 -> v1 -> v2" in error.message


REFUSED: list[tuple[str, str, Any, type[errors.JunctorError], str]] = [
    ("built-in", "DeleteWorkspace", wpb.DeleteWorkspaceRequest(name="default"), errors.ProtectedResource, "built in"),
    ("system", "DeleteWorkspace", wpb.DeleteWorkspaceRequest(name="system"), errors.ProtectedResource, "built in"),
    (
        "no-workspace",
        "DeleteWorkspace",
        wpb.DeleteWorkspaceRequest(name="no"),
        errors.ResourceNotFound,
        "'no' not found",
    ),
    (
        "taken-workspace",
        "CreateWorkspace",
        wpb.CreateWorkspaceRequest(workspace=wpb.Workspace(name="default")),
        errors.ResourceExists,
        "Workspace 'default' already exists",
    ),
    (
        "workspace-name",
        "CreateWorkspace",
        wpb.CreateWorkspaceRequest(workspace=wpb.Workspace(name="A b", description="x" * 1_001)),
        errors.InvalidField,
        "at most 1000 characters",
    ),
    (
        "stale-workspace",
        "UpdateWorkspace",
        wpb.UpdateWorkspaceRequest(workspace=wpb.Workspace(name="default", resource_version="999")),
        errors.StaleVersion,
        "999",
    ),
    ("bad-order", "ListWorkspaces", wpb.ListWorkspacesRequest(order_by="id"), errors.InvalidField, "order_by"),
    ("bad-filter", "ListModels", mpb.ListModelsRequest(filter="{"), errors.MalformedRequest, "not valid JSON"),
    (
        "unknown-field",
        "ListModels",
        mpb.ListModelsRequest(filter="bogus:x"),
        errors.MalformedRequest,
        "Unknown filter field 'bogus'. Valid fields: ['adapters', ",
    ),
    (
        "list-of-unknown-workspace",
        "ListModels",
        mpb.ListModelsRequest(workspace="nope"),
        errors.ResourceNotFound,
        "Workspace 'nope' not found",
    ),
    (
        "model-in-unknown-workspace",
        "CreateModel",
        mpb.CreateModelRequest(model=model(workspace="nope")),
        errors.WorkspaceMissing,
        "Workspace 'nope' does not exist. Please create the workspace first.",
    ),
    (
        "vendor-name",
        "CreateModel",
        mpb.CreateModelRequest(model=model("meta/llama")),
        errors.InvalidField,
        "must start with a lowercase letter",
    ),
    (
        "mask",
        "UpdateModel",
        mpb.UpdateModelRequest(model=model(), update_mask={"paths": ["id"]}),  # type: ignore[arg-type]
        errors.InvalidField,
        "'id' cannot be written",
    ),
    (
        "virtual-in-unknown-workspace",
        "ListVirtualModels",
        vpb.ListVirtualModelsRequest(workspace="nope"),
        errors.ResourceNotFound,
        "Workspace 'nope' not found",
    ),
    (
        "provider-fields",
        "CreateProvider",
        ppb.CreateProviderRequest(provider=provider("Bad", host_url="nope")),
        errors.InvalidField,
        "host_url: must be an absolute http or https URL",
    ),
    (
        "provider-credentials",
        "CreateProvider",
        ppb.CreateProviderRequest(provider=provider(default_extra_headers={"values": {"Cookie": "x"}})),
        errors.MalformedRequest,
        "Cookie header is not allowed in default_extra_headers. Use api_key_secret_name for authentication.",
    ),
    (
        "provider-in-unknown-workspace",
        "CreateProvider",
        ppb.CreateProviderRequest(provider=provider(workspace="nope")),
        errors.WorkspaceMissing,
        "Workspace 'nope' does not exist. Please create the workspace first.",
    ),
    (
        "status-and-served",
        "UpdateProviderStatus",
        ppb.UpdateProviderStatusRequest(
            workspace="default",
            name="p1",
            status=99,  # type: ignore[arg-type]
            served_models={"values": [{"model_entity_id": "x"}]},  # type: ignore[arg-type]
        ),
        errors.InvalidField,
        "status: must be a status of a provider; served_models[0].model_entity_id: must begin with 'default/'",
    ),
    ("secret-value", "CreateSecret", secret("a\nb"), errors.InvalidField, "value: must be printable text"),
    (
        "sync-in-deleted-workspace",
        "SyncProvider",
        mpb.SyncProviderRequest(
            workspace="nope", provider="p1", provider_id="i", models=[mpb.SyncedModel(entity="m1")]
        ),
        errors.WorkspaceMissing,
        "'nope' does not exist",
    ),
]


@pytest.mark.parametrize(("method", "request_", "kind", "text"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
async def test_refusals(
    registries: Registries, method: str, request_: Any, kind: type[errors.JunctorError], text: str
) -> None:
    error = await registries.error(method, request_)
    assert type(error) is kind
    assert text in error.message


async def test_creates_with_a_request_id_are_idempotent_on_every_resource(registries: Registries) -> None:
    calls: list[tuple[str, Any]] = [
        ("CreateWorkspace", wpb.CreateWorkspaceRequest(workspace=wpb.Workspace(name="w1"), request_id="r1")),
        ("CreateModel", mpb.CreateModelRequest(model=model(), request_id="r1")),
        ("CreateVirtualModel", vpb.CreateVirtualModelRequest(virtual_model=virtual(), request_id="r2")),
        ("CreateProvider", ppb.CreateProviderRequest(provider=provider(), request_id="r1")),
        ("CreateSecret", secret(request_id="r2")),
    ]
    for method, request in calls:
        assert await registries.ok(method, request) == await registries.ok(method, request)


@pytest.mark.parametrize("method", METHODS)
async def test_every_method_answers_nonsense_with_an_error_of_ours(registries: Registries, method: str) -> None:
    kinds = {m.name: m for file in SERVICES.values() for s in file.services_by_name.values() for m in s.methods}
    request = GetMessageClass(kinds[method].input_type)()
    ended = await registries.end(method, request)
    if method.startswith("List"):
        assert ended.code is grpc.StatusCode.OK
    else:
        assert ended.code in (
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.NOT_FOUND,
        ), ended.details
