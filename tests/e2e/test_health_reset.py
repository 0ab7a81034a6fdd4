"""Reset of a provider's health: an operator says it is well again, and every router tries it at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from junctor.v1 import inference_router_pb2 as pb
from junctor.v1.inference_router_pb2_grpc import InferenceRouterStub
from services.inference_router.ejection import FAULTS_TO_EJECT
from tests.cluster import Cluster, running, until
from tests.upstream import OpenAI, ScriptedUpstream, Status

PROVIDER = "/apis/models/v2/workspaces/default/providers/up"
CHAT = {"model": "default/test-model", "messages": []}


async def reasons(cluster: Cluster) -> list[str]:
    request = pb.ExplainRouteRequest(model=pb.ModelTarget(workspace="default", name="test-model"))
    answer = await InferenceRouterStub(cluster.channel).ExplainRoute(request)
    return [candidate.reason for candidate in answer.candidates]


@pytest.mark.parametrize(
    ("fault", "reason", "calls"),
    [(Status(500), "ejected", FAULTS_TO_EJECT), (Status(429, retry_after=60), "resting", 1)],
    ids=["ejected", "resting"],
)
async def test_a_reset_is_in_force_in_the_router_and_shown(
    tmp_path: Path, upstream: ScriptedUpstream, fault: Status, reason: str, calls: int
) -> None:
    async with running(tmp_path) as cluster:
        await cluster.add_provider("up", upstream.url)
        upstream.always(fault, path="/v1/chat/completions")
        for _ in range(calls):
            await cluster.http.post("/v1/chat/completions", json=CHAT)
        assert await reasons(cluster) == [reason]
        upstream.always(OpenAI(), path="/v1/chat/completions")
        before = (await cluster.http.get(PROVIDER)).json()
        answer = await cluster.http.post(f"{PROVIDER}/reset")
        assert (answer.status_code, answer.json()["status"]) == (200, before["status"])

        async def well() -> bool:
            return await reasons(cluster) == ["policy"]

        await until(well)
        assert (await cluster.http.post("/v1/chat/completions", json=CHAT)).status_code == 200


async def test_there_is_nothing_to_reset_of_a_provider_that_is_not_there(tmp_path: Path) -> None:
    async with running(tmp_path) as cluster:
        answer = await cluster.http.post(f"{PROVIDER}/reset")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "resource_not_found")
        other = await cluster.http.post(f"{PROVIDER.replace('up', 'Not A Name')}/reset")
        assert other.status_code in (404, 422)
