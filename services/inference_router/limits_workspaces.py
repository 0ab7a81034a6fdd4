"""The limits of workspaces as a router knows them: by Watch, so that no request asks for them.

Only workspaces that have limits are kept. A router that starts while access_control is away knows none until it hears.
"""

from __future__ import annotations

from junctor.channel import Peer
from junctor.v1 import workspaces_pb2 as pb
from junctor.v1 import workspaces_pb2_grpc
from services.access.identity import Limits
from services.runtime.following import Follower

_NONE = Limits()


class WorkspaceLimits:
    """Limits by name, in :attr:`limits`; ``follower`` has to run."""

    def __init__(self, access_control: Peer) -> None:
        self.limits: dict[str, Limits] = {}
        stub = workspaces_pb2_grpc.WorkspacesStub(access_control.channel)
        self.follower: Follower[pb.Workspace] = Follower(
            "limits of workspaces", access_control.shown(stub.WatchWorkspaces), self
        )

    def replace(self, resources: list[pb.Workspace]) -> None:
        """Take a snapshot."""
        self.limits.clear()
        for workspace in resources:
            self.apply(workspace, deleted=False)

    def apply(self, resource: pb.Workspace, *, deleted: bool) -> None:
        """Take one change."""
        limits = _NONE if deleted else Limits.of(resource.limits)
        if limits == _NONE:
            self.limits.pop(resource.name, None)
        elif limits != self.limits.get(resource.name):
            self.limits[resource.name] = limits
