"""Access control's servicers on a store of the test's, called as whoever the test says."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from junctor.v1 import access_pb2 as pb
from services.access.identity import Caller, Identity, Kind, Limits, model_pattern
from services.access.roles import Role, narrowed
from services.access_control.audit import AuditStore
from services.access_control.audit_servicer import AuditServicer
from services.access_control.keys import KeyStore
from services.access_control.keys_servicer import KeysServicer
from services.access_control.members import MemberStore
from services.access_control.members_servicer import MembersServicer
from services.access_control.store import MIGRATIONS, WorkspaceStore
from services.access_control.sync_servicer import AccessSyncServicer
from services.runtime import interceptors
from tests.stores import database

CONTEXT: Any = None
"""Servicers do not look at it."""


@dataclass
class Desk:
    """The stores and servicers of one access control."""

    audit_store: AuditStore
    workspaces: WorkspaceStore
    key_store: KeyStore
    member_store: MemberStore

    def __post_init__(self) -> None:
        self.keys = KeysServicer(self.key_store)
        self.members = MembersServicer(self.member_store, self.workspaces)
        self.audit = AuditServicer(self.audit_store, self.workspaces)
        self.sync = AccessSyncServicer(self.key_store, self.member_store, self.audit_store)

    async def new_key(self, role: pb.Role.ValueType = pb.ROLE_EDITOR, **fields: Any) -> pb.CreateKeyResponse:
        """Create a key, in ``default`` unless it is for every workspace."""
        place = {} if role == pb.ROLE_PLATFORM_ADMIN else {"workspace": "default"}
        key = pb.ApiKey(**{"role": role, **place, **fields})
        return await self.keys.CreateKey(pb.CreateKeyRequest(key=key), CONTEXT)

    async def new_member(self, principal: str, *roles: pb.Role.ValueType, workspace: str = "default") -> pb.Member:
        """Add a member."""
        member = pb.Member(workspace=workspace, principal=principal, roles=roles)
        return await self.members.CreateMember(pb.CreateMemberRequest(member=member), CONTEXT)

    async def events(self, **query: Any) -> list[pb.AuditEvent]:
        """List the record, newest first."""
        return list((await self.audit.ListAuditEvents(pb.ListAuditEventsRequest(**query), CONTEXT)).events)

    async def bodies(self) -> bytes:
        """Everything that the store holds, as bytes."""
        import sqlalchemy as sa

        found = b""
        async with self.workspaces.feed.database.read() as tx:
            for table in ("keys", "audit", "changes", "requests"):
                found += b"".join((await tx.execute(sa.text(f"SELECT body FROM {table}"))).scalars())
        return found


@asynccontextmanager
async def desk(folder: Path) -> AsyncIterator[Desk]:
    """A migrated store with its built-in workspaces, and servicers on it."""
    async with database(folder, "access_control", MIGRATIONS) as opened:
        audit = AuditStore()
        workspaces = WorkspaceStore(opened, journal=audit)
        made = Desk(audit, workspaces, KeyStore(workspaces), MemberStore(workspaces))
        await workspaces.seed()
        yield made


def caller(
    roles: dict[str, Role] | Role,
    *,
    kind: Kind = Kind.KEY,
    models: tuple[str, ...] = (),
    scopes: tuple[str, ...] = (),
    limits: Limits | None = None,
    expires: float | None = None,
) -> Caller:
    """Somebody with these roles; a role alone is for every workspace."""
    everywhere, by_workspace = (roles, {}) if isinstance(roles, Role) else (Role.NONE, roles)
    return Caller(
        Identity(kind, "key-of-test", permissions=narrowed(scopes), expires=expires),
        everywhere=everywhere,
        roles=by_workspace,
        models=tuple(model_pattern(model) for model in models),
        limits=limits or Limits(),
    )


@contextmanager
def calling(who: Caller | None, *, method: str = "/junctor.v1.Keys/Test", sees: Any = ...) -> Iterator[None]:
    """Make what runs within a call of ``who``; ``sees``: the workspaces of which anything may be seen."""
    info: Any = SimpleNamespace(
        request_id="req-of-test",
        method=method,
        principal=who,
        workspaces=(who.workspaces if who is not None else None) if sees is ... else sees,
        deadline=None,
        draining=None,
    )
    before = interceptors._CURRENT.set(info)
    try:
        yield
    finally:
        interceptors._CURRENT.reset(before)


def in_an_hour() -> int:
    """UNIX time."""
    return int(time.time()) + 3600
