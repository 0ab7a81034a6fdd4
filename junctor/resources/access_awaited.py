"""Keys, members and the record of :class:`junctor.AsyncClient`. Twin of :mod:`junctor.resources.access_blocking`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from junctor.access_records import ApiKey, AuditEvent, Member, NewApiKey
from junctor.paging import AsyncPages
from junctor.request import Filter
from junctor.resources import access_kinds as kinds
from junctor.resources.access_kinds import KeyFields
from junctor.resources.awaited import AsyncSender
from junctor.resources.kinds import Query


class AsyncKeys(AsyncSender):
    """API keys."""

    async def create(self, role: str, *, workspace: str | None = None, **fields: Unpack[KeyFields]) -> NewApiKey:
        """Make a key; its ``value`` is in this answer and nowhere else. A PlatformAdmin key is for every workspace.

        Raises PermissionDenied for a key that may do more than the caller.
        """
        return await self._transport.send(kinds.create_key(role, self._in(workspace), {**fields}))

    async def get(self, key_id: str) -> ApiKey:
        """Read one by its id. Raises ResourceNotFound."""
        return await self._transport.send(kinds.get_key(key_id))

    def list(
        self,
        *,
        workspace: str | None = None,
        filter: Filter | None = None,  # noqa: A002 - the name in the contract
        sort: str | None = None,
        page_size: int | None = None,
        show_ended: bool = False,
    ) -> AsyncPages[ApiKey]:
        """List those that the caller may manage, of every workspace unless one is given."""
        query = Query(filter, sort, page_size)
        return AsyncPages(
            lambda number: self._transport.send(kinds.list_keys(workspace, query, number, show_ended=show_ended))
        )

    async def revoke(self, key_id: str) -> None:
        """Revoke for good; in force everywhere within a second."""
        await self._transport.send(kinds.revoke_key(key_id))


class AsyncMembers(AsyncSender):
    """Members of workspaces. Roles: Viewer, Editor, Admin."""

    async def create(
        self, principal: str, roles: Sequence[str] = ("Viewer",), *, workspace: str | None = None
    ) -> Member:
        """Add a member. Raises ResourceExists."""
        return await self._transport.send(kinds.create_member(self._in(workspace), principal, roles))

    async def get(self, principal: str, *, workspace: str | None = None) -> Member:
        """Read one. Raises ResourceNotFound."""
        return await self._transport.send(kinds.get_member(self._in(workspace), principal))

    async def list(self, *, workspace: str | None = None) -> tuple[Member, ...]:
        """List all of a workspace."""
        return await self._transport.send(kinds.list_members(self._in(workspace)))

    async def update(
        self,
        principal: str,
        roles: Sequence[str],
        *,
        workspace: str | None = None,
        resource_version: str | None = None,
    ) -> Member:
        """Replace the roles. Raises ResourceNotFound; StaleVersion if it is not the given version any more."""
        return await self._transport.send(kinds.update_member(self._in(workspace), principal, roles, resource_version))

    async def delete(self, principal: str, *, workspace: str | None = None) -> None:
        """Take every role away. Raises ResourceNotFound."""
        await self._transport.send(kinds.delete_member(self._in(workspace), principal))


class AsyncAudit(AsyncSender):
    """The record of writes and refused calls. It can be read, not written."""

    def list(
        self,
        *,
        workspace: str | None = None,
        filter: Filter | None = None,  # noqa: A002 - the name in the contract
        page_size: int | None = None,
    ) -> AsyncPages[AuditEvent]:
        """List events, newest first, of every workspace that the caller manages unless one is given."""
        query = Query(filter, None, page_size)
        return AsyncPages(lambda number: self._transport.send(kinds.list_audit(workspace, query, number)))
