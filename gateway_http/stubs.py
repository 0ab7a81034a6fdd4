"""The services behind the REST surface: a stub of each, and the peer that its calls go through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from junctor.channel import Peer
from junctor.v1.access_pb2_grpc import AuditStub, KeysStub, MembersStub
from junctor.v1.inference_router_pb2_grpc import InferenceRouterStub
from junctor.v1.model_registry_pb2_grpc import ModelRegistryStub
from junctor.v1.provider_registry_pb2_grpc import ProviderRegistryStub
from junctor.v1.secrets_pb2_grpc import SecretStoreStub
from junctor.v1.usage_pb2_grpc import PricesStub, UsageStub
from junctor.v1.virtual_models_pb2_grpc import VirtualModelsStub
from junctor.v1.workspaces_pb2_grpc import WorkspacesStub

if TYPE_CHECKING:
    from junctor.v1.access_pb2_grpc import AuditAsyncStub, KeysAsyncStub, MembersAsyncStub
    from junctor.v1.inference_router_pb2_grpc import InferenceRouterAsyncStub
    from junctor.v1.model_registry_pb2_grpc import ModelRegistryAsyncStub
    from junctor.v1.provider_registry_pb2_grpc import ProviderRegistryAsyncStub
    from junctor.v1.secrets_pb2_grpc import SecretStoreAsyncStub
    from junctor.v1.usage_pb2_grpc import PricesAsyncStub, UsageAsyncStub
    from junctor.v1.virtual_models_pb2_grpc import VirtualModelsAsyncStub
    from junctor.v1.workspaces_pb2_grpc import WorkspacesAsyncStub

StubT = TypeVar("StubT")


@dataclass(frozen=True, slots=True)
class Service(Generic[StubT]):
    """One gRPC service of a peer."""

    peer: Peer
    stub: StubT


@dataclass(frozen=True, slots=True)
class Stubs:
    """Every service that the REST surface calls. They share the peers' channels and close nothing."""

    workspaces: Service[WorkspacesAsyncStub]
    models: Service[ModelRegistryAsyncStub]
    virtual_models: Service[VirtualModelsAsyncStub]
    providers: Service[ProviderRegistryAsyncStub]
    secrets: Service[SecretStoreAsyncStub]
    router: Service[InferenceRouterAsyncStub]
    keys: Service[KeysAsyncStub]
    members: Service[MembersAsyncStub]
    audit: Service[AuditAsyncStub]
    usage: Service[UsageAsyncStub]
    prices: Service[PricesAsyncStub]

    @classmethod
    def of(
        cls, *, access_control: Peer, model_registry: Peer, provider_registry: Peer, inference_router: Peer
    ) -> Stubs:
        """Make every stub over the channel of its process; in one process all four may be the same peer."""
        return cls(
            workspaces=Service(access_control, WorkspacesStub(access_control.channel)),
            models=Service(model_registry, ModelRegistryStub(model_registry.channel)),
            virtual_models=Service(model_registry, VirtualModelsStub(model_registry.channel)),
            providers=Service(provider_registry, ProviderRegistryStub(provider_registry.channel)),
            secrets=Service(provider_registry, SecretStoreStub(provider_registry.channel)),
            router=Service(inference_router, InferenceRouterStub(inference_router.channel)),
            keys=Service(access_control, KeysStub(access_control.channel)),
            members=Service(access_control, MembersStub(access_control.channel)),
            audit=Service(access_control, AuditStub(access_control.channel)),
            usage=Service(access_control, UsageStub(access_control.channel)),
            prices=Service(access_control, PricesStub(access_control.channel)),
        )
