"""The gRPC service ``ProviderRegistry``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from typing import Any

from junctor import filters
from junctor.errors import ResourceExists, ResourceNotFound, ResourceRef, SecretMissing
from junctor.v1 import provider_registry_pb2 as pb
from junctor.v1 import provider_registry_pb2_grpc, watch_pb2
from services.provider_registry import seed
from services.provider_registry.by_hand import StatusByHand
from services.provider_registry.secret_store import SecretStore
from services.provider_registry.store import PROVIDER_WRITABLE, ProviderStore
from services.provider_registry.validation import check_provider, check_status
from services.runtime.addresses import AddressPolicy
from services.runtime.fields import copy_fields
from services.runtime.masks import masked
from services.runtime.paging import ListQuery
from services.runtime.watch import Watcher
from services.runtime.workspaces import WorkspaceList

_TURNS = 5
"""How often a provider may be created and deleted by others under a call that is to change or create it."""


class ProviderRegistryServicer(provider_registry_pb2_grpc.ProviderRegistryServicer):
    """Check, do, answer; errors are raised and translated by the server's interceptor."""

    def __init__(
        self,
        store: ProviderStore,
        *,
        secrets: SecretStore,
        workspaces: WorkspaceList,
        policy: AddressPolicy,
        by_hand: StatusByHand,
    ) -> None:
        self._store = store
        self._secrets = secrets
        self._workspaces = workspaces
        self._policy = policy
        self._by_hand = by_hand

    async def GetProvider(self, request: pb.GetProviderRequest, context: Any) -> pb.Provider:
        return await self._store.get_with_attempts(request.workspace, request.name)

    async def ListProviders(self, request: pb.ListProvidersRequest, context: Any) -> pb.ListProvidersResponse:
        await self._workspaces.require_listed(request.workspace)
        page = await self._store.list_with_attempts(
            ListQuery(
                workspace=request.workspace,
                page_size=request.page_size,
                page_token=request.page_token,
                skip=request.skip,
                order_by=request.order_by,
                filter=filters.parse(request.filter),
            )
        )
        return pb.ListProvidersResponse(
            providers=page.items, next_page_token=page.next_page_token, total_size=page.total_size
        )

    async def CreateProvider(self, request: pb.CreateProviderRequest, context: Any) -> pb.Provider:
        asked = request.provider
        check_provider(asked, PROVIDER_WRITABLE, new=True, policy=self._policy)
        return asked if request.validate_only else await self._create(asked, request.request_id)

    async def UpdateProvider(self, request: pb.UpdateProviderRequest, context: Any) -> pb.Provider:
        asked = request.provider
        fields = masked(request.update_mask, PROVIDER_WRITABLE)
        check_provider(asked, fields, new=request.allow_missing, policy=self._policy)
        if request.validate_only:
            return asked
        if not request.allow_missing or asked.resource_version:
            return await self._change(asked, fields)
        return await self._put(asked, fields)

    async def UpdateProviderStatus(self, request: pb.UpdateProviderStatusRequest, context: Any) -> pb.Provider:
        check_status(request)
        if request.validate_only:
            return pb.Provider(workspace=request.workspace, name=request.name)
        return await self._by_hand.set(request)

    async def ResetProviderHealth(self, request: pb.ResetProviderHealthRequest, context: Any) -> pb.Provider:
        async with self._store.transaction() as tx:
            current = await self._store.fetch(tx, request.workspace, request.name)
            return await self._store.with_attempts(tx, await self._store.put(tx, current, _reset))

    async def DeleteProvider(self, request: pb.DeleteProviderRequest, context: Any) -> pb.DeleteProviderResponse:
        revision = await self._store.delete(request.workspace, request.name, resource_version=request.resource_version)
        return pb.DeleteProviderResponse(revision=str(revision))

    async def WatchProviders(self, request: watch_pb2.WatchRequest, context: Any) -> AsyncIterator[pb.ProviderEvent]:
        async for item in Watcher(self._store).events(request.resume_token):
            yield pb.ProviderEvent(
                type=item.type, resource=item.resource, revision=item.revision, resume_token=item.resume_token
            )

    async def _change(self, asked: pb.Provider, fields: Collection[str]) -> pb.Provider:
        await self._check_secrets(asked, fields)
        return await self._reconfigure(asked, fields)

    async def _put(self, asked: pb.Provider, fields: Collection[str]) -> pb.Provider:
        """Change the provider, or create it. Others may create and delete it between the two."""
        for _ in range(_TURNS):
            with suppress(ResourceNotFound):
                return await self._change(asked, fields)
            check_provider(asked, PROVIDER_WRITABLE, new=True, policy=self._policy)
            with suppress(ResourceExists):
                return await self._create(asked, "")
        return await self._change(asked, fields)

    async def _create(self, asked: pb.Provider, request_id: str) -> pb.Provider:
        workspace_id = await self._workspaces.require(asked.workspace)
        await self._check_secrets(asked, PROVIDER_WRITABLE)
        new = pb.Provider(
            workspace=asked.workspace,
            name=asked.name,
            status=pb.PROVIDER_STATUS_CREATED,
            status_message="Model provider created",
            auth_context=pb.AuthContext(),
        )
        copy_fields(asked, new, PROVIDER_WRITABLE)
        created = await self._store.create(new, request_id=request_id, workspace_id=workspace_id)
        async with self._store.feed.database.read() as tx:
            return await self._store.with_attempts(tx, created)

    async def _reconfigure(self, asked: pb.Provider, fields: Collection[str]) -> pb.Provider:
        async with self._store.transaction() as tx:
            current = await self._store.fetch(tx, asked.workspace, asked.name)
            self._store.check_version(current, asked.resource_version)
            changed = await self._store.reconfigure(tx, current, lambda provider: copy_fields(asked, provider, fields))
            return await self._store.with_attempts(tx, changed)

    async def _check_secrets(self, asked: pb.Provider, fields: Collection[str]) -> None:
        """Raise SecretMissing for a secret that is not in the provider's own workspace."""
        named = [asked.api_key_secret_name] if "api_key_secret_name" in fields and _has_key(asked) else []
        if "tls" in fields and asked.tls.HasField("client_certificate_secret_name"):
            named.append(asked.tls.client_certificate_secret_name)
        for name in named:
            if seed.may_lack_its_secret(asked.workspace, asked.name, name):
                continue
            if not await self._secrets.exists(asked.workspace, name):
                raise SecretMissing(
                    f"Secret '{name}' not found in workspace '{asked.workspace}'",
                    resource=ResourceRef("secret", f"{asked.workspace}/{name}"),
                )


def _reset(provider: pb.Provider) -> None:
    provider.health_resets += 1


def _has_key(provider: pb.Provider) -> bool:
    return provider.HasField("api_key_secret_name")
