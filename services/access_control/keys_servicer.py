"""The gRPC service ``Keys``."""

from __future__ import annotations

from typing import Any

from junctor import filters, names
from junctor.errors import ResourceNotFound, ResourceRef
from junctor.v1 import access_pb2 as pb
from junctor.v1 import access_pb2_grpc
from services.access.identity import Caller
from services.access_control import grants
from services.access_control.keys import KeyStore
from services.access_control.validation import check_key
from services.runtime.fields import copy_fields
from services.runtime.paging import ListQuery
from services.runtime.resources import seen_workspaces

_WRITABLE = ("description", "workspace", "role", "models", "scopes", "limits", "tags", "expires_at")


class KeysServicer(access_pb2_grpc.KeysServicer):
    """Check, do, answer. A key lies in a workspace that its id does not tell, so each call looks for itself."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store

    async def CreateKey(self, request: pb.CreateKeyRequest, context: Any) -> pb.CreateKeyResponse:
        who, asked = grants.caller(), pb.ApiKey()
        copy_fields(request.key, asked, _WRITABLE)
        check_key(asked)
        grants.require_manage(who, asked.workspace, no_workspace(asked.workspace))
        grants.check_key(who, asked)
        if request.validate_only:
            return pb.CreateKeyResponse(key=asked)
        record, value = await self._store.create_key(asked, request_id=request.request_id)
        return pb.CreateKeyResponse(key=record.key, value=value.reveal())

    async def GetKey(self, request: pb.GetKeyRequest, context: Any) -> pb.ApiKey:
        record = await self._store.get_key(request.id)
        self._require(grants.caller(), record)
        return record.key

    async def ListKeys(self, request: pb.ListKeysRequest, context: Any) -> pb.ListKeysResponse:
        who = grants.caller()
        within = listed(who, request.workspace)
        page = await self._store.list_keys(
            ListQuery(
                workspace=request.workspace,
                page_size=request.page_size,
                page_token=request.page_token,
                skip=request.skip,
                order_by=request.order_by,
                filter=filters.parse(request.filter),
            ),
            within=within,
            ended=request.show_ended,
        )
        return pb.ListKeysResponse(
            keys=[record.key for record in page.items],
            next_page_token=page.next_page_token,
            total_size=page.total_size,
        )

    async def RevokeKey(self, request: pb.RevokeKeyRequest, context: Any) -> pb.RevokeKeyResponse:
        who = grants.caller()
        async with self._store.transaction() as tx:
            record = await self._store.fetch_key(tx, request.id)
            self._require(who, record)
            revoked = await self._store.revoke(tx, record)
        return pb.RevokeKeyResponse(key=revoked.key, revision=revoked.key.resource_version)

    def _require(self, who: Caller, record: pb.KeyRecord) -> None:
        """Raise ResourceNotFound, or PermissionDenied, unless the caller may manage the key."""
        grants.require_manage(who, record.key.workspace, self._store.not_found("", record.key.id))


def listed(who: Caller, workspace: str) -> frozenset[str] | None:
    """Return the workspaces whose keys or events a list may show; None: every one.

    Raises ResourceNotFound or PermissionDenied for a named one that the caller may not see, or not manage.
    """
    if workspace not in ("", names.ALL_WORKSPACES):
        grants.require_manage(who, workspace, no_workspace(workspace))
    within, seen = grants.managed(who), seen_workspaces()
    if within is None or seen is None:
        return within if seen is None else seen
    return within & seen


def no_workspace(workspace: str) -> ResourceNotFound:
    """Build the error for a workspace that does not exist, or that the caller may not know of."""
    return ResourceNotFound(f"Workspace '{workspace}' not found", resource=ResourceRef("workspace", workspace))
