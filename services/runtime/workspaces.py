"""The list of workspaces that every registry keeps: the namespace of all resources.

Kept by Watch. A name that is not in it is asked for once before it is refused, so that callers read their own
writes; if access_control cannot be reached then, the answer is UNAVAILABLE and not "does not exist".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from junctor import names
from junctor.channel import Peer
from junctor.errors import ResourceNotFound, ResourceRef, WorkspaceMissing
from junctor.v1 import workspaces_pb2 as pb
from junctor.v1 import workspaces_pb2_grpc
from services.runtime.following import Follower


class WorkspaceList:
    """Names of the workspaces that exist. ``on_change`` hears of every change of the list."""

    def __init__(self, access_control: Peer, *, on_change: Callable[[frozenset[str]], None] | None = None) -> None:
        self._peer = access_control
        self._stub = workspaces_pb2_grpc.WorkspacesStub(access_control.channel)
        self._names: frozenset[str] = frozenset()
        self._on_change = on_change
        self.follower: Follower[pb.Workspace] = Follower("workspaces", self._stub.WatchWorkspaces, self)

    @property
    def names(self) -> frozenset[str]:
        """The names known now; complete once ``follower.synced`` is set."""
        return self._names

    def replace(self, resources: list[pb.Workspace]) -> None:
        """Take a snapshot."""
        self._changed(frozenset(workspace.name for workspace in resources))

    def apply(self, resource: pb.Workspace, *, deleted: bool) -> None:
        """Take one change."""
        one = frozenset([resource.name])
        self._changed(self._names - one if deleted else self._names | one)

    async def require(self, workspace: str) -> None:
        """Raise WorkspaceMissing unless the workspace exists: for writes."""
        if not await self._exists(workspace):
            raise WorkspaceMissing(
                f"Workspace '{workspace}' does not exist. Please create the workspace first.",
                resource=ResourceRef("workspace", workspace),
            )

    async def require_listed(self, workspace: str) -> None:
        """Raise ResourceNotFound unless the workspace exists: for lists."""
        if workspace not in ("", names.ALL_WORKSPACES) and not await self._exists(workspace):
            raise ResourceNotFound(f"Workspace '{workspace}' not found", resource=ResourceRef("workspace", workspace))

    async def _exists(self, workspace: str) -> bool:
        if workspace in self._names:
            return True
        if not names.is_name(workspace):
            return False
        try:
            await self._peer.call(self._stub.GetWorkspace, pb.GetWorkspaceRequest(name=workspace))
        except ResourceNotFound:
            return False
        return True

    async def gone(self, workspaces: Iterable[str]) -> frozenset[str]:
        """Return those of ``workspaces`` that are known not to exist; one that is not listed yet is asked for.

        Raises PeerUnavailable when that cannot be told.
        """
        return frozenset([name for name in workspaces if not await self._exists(name)])

    def _changed(self, workspaces: frozenset[str]) -> None:
        if workspaces != self._names:
            self._names = workspaces
            if self._on_change is not None:
                self._on_change(workspaces)
