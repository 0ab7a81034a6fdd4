"""The list of workspaces that every registry keeps: the namespace of all resources.

Kept by Watch. A name that is not in it is asked for once before it is refused, so that callers read their own
writes; if access_control cannot be reached then, the answer is UNAVAILABLE and not "does not exist". What is to be
written is told the id of its workspace by access_control itself: the list may be a moment old.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from junctor import names
from junctor.channel import Peer
from junctor.errors import JunctorError, ResourceNotFound, ResourceRef, WorkspaceMissing
from junctor.v1 import workspaces_pb2 as pb
from junctor.v1 import workspaces_pb2_grpc
from services.runtime.following import Follower
from services.runtime.incarnations import Place
from services.runtime.interceptors import sees

_ASK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is to become of rows, by where they are."""

    gone: frozenset[Place]
    """Their workspace is not there any more; another of its name may be."""
    adopted: dict[str, str]
    """Workspaces whose rows without an id are to get this one."""


class WorkspaceList:
    """The workspaces that exist, with their ids. ``on_change`` hears of every change of the list."""

    def __init__(self, access_control: Peer, *, on_change: Callable[[frozenset[str]], None] | None = None) -> None:
        self._peer = access_control
        self._stub = workspaces_pb2_grpc.WorkspacesStub(access_control.channel)
        self._ids: dict[str, str] = {}
        self._gone: frozenset[str] = frozenset()
        self._on_change = on_change
        self.follower: Follower[pb.Workspace] = Follower(
            "workspaces", access_control.shown(self._stub.WatchWorkspaces), self
        )

    @property
    def names(self) -> frozenset[str]:
        """The names known now; complete once ``follower.synced`` is set."""
        return frozenset(self._ids)

    @property
    def gone_ids(self) -> frozenset[str]:
        """Ids of workspaces that are gone, until :meth:`forget`."""
        return self._gone

    def id_of(self, workspace: str) -> str | None:
        """Return the id that the workspace has as far as is known."""
        return self._ids.get(workspace)

    def replace(self, resources: list[pb.Workspace]) -> None:
        """Take a snapshot."""
        self._take({workspace.name: workspace.id for workspace in resources})

    def apply(self, resource: pb.Workspace, *, deleted: bool) -> None:
        """Take one change."""
        ids = dict(self._ids)
        if not deleted:
            ids[resource.name] = resource.id
        elif ids.get(resource.name) == resource.id:
            del ids[resource.name]
        self._take(ids)

    async def require(self, workspace: str, *, workspace_id: str = "") -> str:
        """Raise WorkspaceMissing unless the workspace exists: for writes.

        Returns its id as of now; for a listed workspace while access_control does not say ``workspace_id``: the one
        that the write is meant for, if that is known. One with another id does not exist.
        """
        if not sees(workspace):
            raise _missing(workspace)
        listed = workspace in self._ids
        if listed and not self.follower.connected:
            return workspace_id
        try:
            now = await self._ask(workspace)
        except JunctorError:
            if listed:
                return workspace_id
            raise
        if not now or workspace_id not in ("", now):
            raise _missing(workspace)
        return now

    async def confirm(self, workspace: str, workspace_id: str) -> None:
        """Raise WorkspaceMissing unless the workspace has this id now, and PeerUnavailable if that cannot be told."""
        if await self._ask(workspace) != workspace_id:
            raise _missing(workspace)

    async def require_listed(self, workspace: str) -> None:
        """Raise ResourceNotFound unless the workspace exists: for lists."""
        if workspace in ("", names.ALL_WORKSPACES) or (workspace in self._ids and sees(workspace)):
            return
        if not sees(workspace) or not await self._ask(workspace):
            raise ResourceNotFound(f"Workspace '{workspace}' not found", resource=ResourceRef("workspace", workspace))

    async def judge(self, places: Iterable[Place]) -> Judgement:
        """Tell what is to become of rows; those of a gone workspace are hidden from now on.

        What the list does not say is asked for. Raises PeerUnavailable when that cannot be told.
        """
        gone: set[Place] = set()
        adopted: dict[str, str] = {}
        for workspace, workspace_id in places:
            now = self._ids.get(workspace, "")
            if not now or workspace_id != now:
                now = await self._ask(workspace)
            if not now or workspace_id not in (None, now):
                gone.add((workspace, workspace_id))
            elif workspace_id is None:
                adopted[workspace] = now
        self._gone |= {workspace_id for _, workspace_id in gone if workspace_id}
        return Judgement(frozenset(gone), adopted)

    def forget(self, ids: frozenset[str]) -> None:
        """Drop ids from :attr:`gone_ids`: no row has them any more."""
        self._gone -= ids

    async def _ask(self, workspace: str) -> str:
        """Return the id of a workspace, empty if it does not exist."""
        if not names.is_name(workspace):
            return ""
        request = pb.GetWorkspaceRequest(name=workspace)
        try:
            return (await self._peer.call(self._stub.GetWorkspace, request, timeout=_ASK_SECONDS)).id
        except ResourceNotFound:
            return ""

    def _take(self, ids: dict[str, str]) -> None:
        if ids != self._ids:
            self._gone |= frozenset(self._ids.values()) - frozenset(ids.values())
            self._ids = ids
            if self._on_change is not None:
                self._on_change(self.names)


def _missing(workspace: str) -> WorkspaceMissing:
    return WorkspaceMissing(
        f"Workspace '{workspace}' does not exist. Please create the workspace first.",
        resource=ResourceRef("workspace", workspace),
    )
