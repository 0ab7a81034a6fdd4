"""Limits of workspaces over REST: what is taken, who sets them, and that routers hold them without being asked to."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from junctor.errors import PermissionDenied
from junctor.v1 import access_pb2, workspaces_pb2
from services.access.roles import Role
from services.access_control.servicer import WorkspacesServicer
from tests.access_desk import CONTEXT, caller, calling, desk
from tests.cluster import Cluster, until
from tests.upstream import OpenAI, ScriptedUpstream

WORKSPACE = "/apis/entities/v2/workspaces/default"
CALL = {"model": "default/test-model", "max_tokens": 5, "messages": []}
BAD = {
    "requests": ({"requests_per_minute": 0}, "limits.requests_per_minute"),
    "budget": ({"budget": {"micros": 0, "period": "day"}}, "limits.budget.micros"),
    "period": ({"budget": {"micros": 1, "period": "year"}}, "limits.budget.period"),
    "large": ({"tokens_per_minute": 10**15 + 1}, "limits.tokens_per_minute"),
}


@pytest.mark.parametrize("case", BAD)
async def test_every_bad_limit_is_named(cluster: Cluster, case: str) -> None:
    limits, field = BAD[case]
    for asked in (
        cluster.http.put(WORKSPACE, json={"limits": limits}),
        cluster.http.post(WORKSPACE.rpartition("/")[0], json={"name": "other", "limits": limits}),
        cluster.http.post("/apis/auth/v2/keys", json={"role": "Viewer", "workspace": "default", "limits": limits}),
    ):
        refused = await asked
        assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (422, ["body", *field.split(".")])


async def test_limits_are_kept_by_writes_that_do_not_name_them_and_lifted_by_none(cluster: Cluster) -> None:
    made = (await cluster.http.put(WORKSPACE, json={"limits": {"requests_per_minute": 5}})).json()
    assert made["limits"]["requests_per_minute"] == 5
    kept = (await cluster.http.put(WORKSPACE, json={"description": "d"})).json()
    assert kept["limits"] == made["limits"]
    assert (await cluster.http.put(WORKSPACE, json={"limits": {}})).json()["limits"] is None


async def test_routers_hold_the_limits_of_a_workspace(cluster: Cluster, upstream: ScriptedUpstream) -> None:
    upstream.always(OpenAI())
    await cluster.add_provider("scripted", upstream.url)
    await cluster.http.put(WORKSPACE, json={"limits": {"tokens_per_minute": 10**6, "concurrency": 100}})

    async def told(name: str) -> bool:
        return name in (await cluster.http.post("/v1/chat/completions", json=CALL)).headers

    await until(lambda: told("x-ratelimit-limit-tokens"))
    await cluster.http.put(WORKSPACE, json={"limits": {"requests_per_minute": 2}})
    await until(lambda: told("retry-after"))
    refused = await cluster.http.post("/v1/chat/completions", json=CALL)
    if refused.status_code == 200:  # a new minute began
        await until(lambda: told("retry-after"))
        refused = await cluster.http.post("/v1/chat/completions", json=CALL)
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    await cluster.http.put(WORKSPACE, json={"limits": {}})

    async def lifted() -> bool:
        answer = await cluster.http.post("/v1/chat/completions", json=CALL)
        return answer.status_code == 200 and "x-ratelimit-limit-requests" not in answer.headers

    await until(lifted)


async def test_admins_of_a_workspace_cannot_lift_its_limits(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        servicer = WorkspacesServicer(at.workspaces)
        limits = access_pb2.KeyLimits(requests_per_minute=5)
        workspace = workspaces_pb2.Workspace(name="default", limits=limits)
        request = workspaces_pb2.UpdateWorkspaceRequest(workspace=workspace, update_mask=FieldMask(paths=["limits"]))
        with calling(caller({"default": Role.ADMIN})), pytest.raises(PermissionDenied):
            await servicer.UpdateWorkspace(request, CONTEXT)
        assert (await servicer.UpdateWorkspace(request, CONTEXT)).limits == limits
