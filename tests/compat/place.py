"""Where the tests of the real clients take place: a running ``junctor up``, and a workspace in it."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from tests.upstream import ScriptedUpstream


@dataclass(frozen=True)
class Edge:
    """A running ``junctor up`` with the demo provider in it."""

    url: str
    grpc: str
    """Its gRPC target."""

    def openai(self, workspace: str = "default") -> str:
        """Return the base URL of a workspace's OpenAI route."""
        return f"{self.gateway(workspace)}/openai/-/v1"

    def gateway(self, workspace: str = "default") -> str:
        """Return where a workspace's inference routes begin."""
        return f"{self.url}/apis/inference-gateway/v2/workspaces/{workspace}"


@dataclass(frozen=True)
class Place:
    """A workspace of the test's own, in which provider ``up`` serves ``test-model`` from the scripted upstream."""

    edge: Edge
    workspace: str
    upstream: ScriptedUpstream
    http: httpx.AsyncClient

    @property
    def openai(self) -> str:
        """Base URL of the workspace's OpenAI route."""
        return self.edge.openai(self.workspace)

    @property
    def gateway(self) -> str:
        """Where the workspace's inference routes begin."""
        return self.edge.gateway(self.workspace)

    @property
    def model(self) -> str:
        """The model's full name."""
        return f"{self.workspace}/test-model"
