"""Access control as one object: its store, its servicers, its background work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from junctor.v1 import access_pb2 as pb
from junctor.v1 import access_pb2_grpc, workspaces_pb2_grpc
from services.access.identity import EVERYBODY
from services.access_control import bootstrap
from services.access_control.audit import RETENTION_DAYS, AuditStore, sweep_forever
from services.access_control.audit_servicer import AuditServicer
from services.access_control.keys import KeyStore
from services.access_control.keys_servicer import KeysServicer
from services.access_control.members import MemberStore
from services.access_control.members_servicer import MembersServicer
from services.access_control.servicer import WorkspacesServicer
from services.access_control.store import MIGRATIONS, WorkspaceStore
from services.access_control.sync_servicer import AccessSyncServicer
from services.runtime.auth import Secret
from services.runtime.db import Database
from services.runtime.server import GrpcServer
from services.runtime.tasks import Tasks
from services.runtime.upkeep import compact_forever

SERVICES = (
    "junctor.v1.Workspaces",
    "junctor.v1.Keys",
    "junctor.v1.Members",
    "junctor.v1.Audit",
    "junctor.v1.AccessSync",
)


def _untold(_: Secret) -> None: ...


@dataclass(frozen=True, slots=True)
class Options:
    """How keys begin and how long the record lasts."""

    admin_key: Secret | None = None
    """The operator's own key; None: none is set."""
    auth: bool = False
    """Keys are asked for: then there has to be one that may do everything."""
    tell: Callable[[Secret], None] = _untold
    """Shows a key that was made for want of one; called at most once in the life of a store."""
    audit_days: int = RETENTION_DAYS


class AccessControlService:
    """Workspaces, keys, members and the record; ready when its store answers."""

    def __init__(self, database: Database, options: Options | None = None) -> None:
        self._database = database
        self._options = options or Options()
        self._audit = AuditStore()
        self._store = WorkspaceStore(database, journal=self._audit)
        self._keys = KeyStore(self._store)
        self._members = MemberStore(self._store)
        self._tasks = Tasks("access_control")

    def register(self, server: GrpcServer) -> None:
        """Add the servicers to a server."""
        server.add(workspaces_pb2_grpc.add_WorkspacesServicer_to_server, WorkspacesServicer(self._store))
        server.add(access_pb2_grpc.add_KeysServicer_to_server, KeysServicer(self._keys))
        server.add(access_pb2_grpc.add_MembersServicer_to_server, MembersServicer(self._members, self._store))
        server.add(access_pb2_grpc.add_AuditServicer_to_server, AuditServicer(self._audit, self._store))
        sync = AccessSyncServicer(self._keys, self._members, self._audit)
        server.add(access_pb2_grpc.add_AccessSyncServicer_to_server, sync)

    async def start(self) -> None:
        """Prepare the store, make what has to be there, and begin the background work."""
        await self._database.prepare(MIGRATIONS)
        await self._store.seed()
        await self._seed_members()
        await self._clean()
        await self._let_in()
        self._tasks.start(compact_forever(self._store.feed))
        self._tasks.start(sweep_forever(self._audit, self._store.feed, days=self._options.audit_days))

    async def _seed_members(self) -> None:
        """Let everybody who is authenticated see ``system``; asked once in the life of the store."""
        async with self._store.transaction() as tx:
            if await self._store.once(tx, "seed.members"):
                await self._members.add(tx, pb.Member(workspace="system", principal=EVERYBODY, roles=[pb.ROLE_VIEWER]))

    async def _clean(self) -> None:
        """Make good what the release before leaves of a workspace that it deletes."""
        async with self._store.transaction() as tx:
            await self._members.remove_astray(tx)
            await self._keys.revoke_astray(tx)

    async def _let_in(self) -> None:
        options = self._options
        if options.admin_key is not None:
            await bootstrap.store_chosen(self._keys, options.admin_key)
        if options.auth and (made := await bootstrap.first_key(self._keys)) is not None:
            options.tell(made)

    async def ready(self) -> bool:
        """Tell whether requests would be served."""
        return await self._database.answers()

    async def stop(self) -> None:
        """End the background work and close the store."""
        await self._tasks.stop()
        await self._database.close()
