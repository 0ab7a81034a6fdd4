"""The gRPC services ``SecretStore`` (never returns a value) and ``SecretAccess`` (internal: the one that does)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from junctor import filters, names
from junctor.errors import CredentialUnavailable, ResourceRef
from junctor.v1 import secrets_pb2 as pb
from junctor.v1 import secrets_pb2_grpc, watch_pb2
from services.provider_registry.secret_store import SecretStore
from services.provider_registry.secrets import ValueUnreadable, value_rule
from services.runtime.auth import Secret
from services.runtime.paging import ListQuery
from services.runtime.validation import Violations
from services.runtime.watch import Watcher
from services.runtime.workspaces import WorkspaceList


class SecretStoreServicer(secrets_pb2_grpc.SecretStoreServicer):
    """Check, do, answer; errors are raised and translated by the server's interceptor."""

    def __init__(self, store: SecretStore, workspaces: WorkspaceList) -> None:
        self._store = store
        self._workspaces = workspaces

    async def GetSecret(self, request: pb.GetSecretRequest, context: Any) -> pb.Secret:
        return await self._store.get(request.workspace, request.name)

    async def ListSecrets(self, request: pb.ListSecretsRequest, context: Any) -> pb.ListSecretsResponse:
        await self._workspaces.require_listed(request.workspace)
        page = await self._store.list(
            ListQuery(
                workspace=request.workspace,
                page_size=request.page_size,
                page_token=request.page_token,
                skip=request.skip,
                order_by=request.order_by,
                filter=filters.parse(request.filter),
            )
        )
        return pb.ListSecretsResponse(
            secrets=page.items, next_page_token=page.next_page_token, total_size=page.total_size
        )

    async def CreateSecret(self, request: pb.CreateSecretRequest, context: Any) -> pb.Secret:
        asked = request.secret
        bad = Violations()
        bad.name("name", asked.name)
        bad.description(asked.description)
        bad.labels(asked.labels)
        _check_value(bad, request.value)
        bad.done()
        if request.validate_only:
            return asked
        workspace_id = await self._workspaces.require(asked.workspace)
        new = pb.Secret(workspace=asked.workspace, name=asked.name, value_version=1)
        if asked.HasField("description"):
            new.description = asked.description
        new.labels.update(asked.labels)
        return await self._store.create_secret(
            new, Secret(request.value), request_id=request.request_id, workspace_id=workspace_id
        )

    async def UpdateSecret(self, request: pb.UpdateSecretRequest, context: Any) -> pb.Secret:
        bad = Violations()
        bad.description(request.description)
        bad.labels(request.labels.values)
        if request.HasField("value"):
            _check_value(bad, request.value)
        bad.done()
        if request.validate_only:
            return pb.Secret(workspace=request.workspace, name=request.name)
        return await self._store.update_secret(request)

    async def DeleteSecret(self, request: pb.DeleteSecretRequest, context: Any) -> pb.DeleteSecretResponse:
        revision = await self._store.delete(request.workspace, request.name, resource_version=request.resource_version)
        return pb.DeleteSecretResponse(revision=str(revision))

    async def WatchSecrets(self, request: watch_pb2.WatchRequest, context: Any) -> AsyncIterator[pb.SecretEvent]:
        async for item in Watcher(self._store).events(request.resume_token):
            yield pb.SecretEvent(
                type=item.type, resource=item.resource, revision=item.revision, resume_token=item.resume_token
            )


class SecretAccessServicer(secrets_pb2_grpc.SecretAccessServicer):
    """Returns values to the holders of the service token; the server's chain has checked it."""

    def __init__(self, store: SecretStore) -> None:
        self._store = store

    async def AccessSecret(self, request: pb.AccessSecretRequest, context: Any) -> pb.AccessSecretResponse:
        try:
            secret, value = await self._store.reveal(request.workspace, request.name)
        except ValueUnreadable as error:
            full = names.join(request.workspace, request.name)
            raise CredentialUnavailable(
                f"Secret '{full}' cannot be read: {error}.", resource=ResourceRef("secret", full)
            ) from None
        return pb.AccessSecretResponse(
            value=value.reveal(), value_version=secret.value_version, resource_version=secret.resource_version
        )


def _check_value(bad: Violations, value: str) -> None:
    if (rule := value_rule(value)) is not None:
        bad.add("value", rule)
