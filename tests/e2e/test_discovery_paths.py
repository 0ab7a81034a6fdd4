"""Providers that are not at ``/v1``, and a deletion while the model registry is away: through the whole of junctor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.settings_table import GATEWAY
from tests.cluster import Cluster, until
from tests.e2e.processes import PATIENCE, deployment, status_is
from tests.upstream import Json, ScriptedUpstream, Status

MODELS = "/apis/models/v2/workspaces/default"
CHAT = {"id": "c1", "object": "chat.completion", "choices": [{"index": 0, "message": {"content": "Hi"}}]}


@pytest.mark.parametrize(
    ("fields", "listed", "called"),
    [
        ({"api_base_path": "/v1beta/openai"}, "/v1beta/openai/models", "/v1beta/openai/chat/completions"),
        ({"api_base_path": "/api/paas/v4"}, "/api/paas/v4/models", "/api/paas/v4/chat/completions"),
        (
            {"api_base_path": "/api/paas/v4", "models_path": "model/list"},
            "/api/paas/v4/model/list",
            "/api/paas/v4/chat/completions",
        ),
        ({"api_base_path": "/api/paas/v4", "static_models": ["m-1"]}, None, "/api/paas/v4/chat/completions"),
        ({"static_models": ["m-1"]}, None, "/v1/chat/completions"),
    ],
    ids=["as Gemini", "as Zhipu", "another list", "a list by hand", "a list by hand at /v1"],
)
async def test_a_provider_off_the_usual_path_gets_ready_and_called(
    cluster: Cluster, upstream: ScriptedUpstream, fields: dict[str, Any], listed: str | None, called: str
) -> None:
    upstream.always(Status(404))
    if listed is not None:
        upstream.always(Json(200, {"object": "list", "data": [{"id": "m-1"}]}), path=listed)
    upstream.always(Json(200, CHAT), path=called)
    await cluster.add_provider("up", upstream.url, **fields)
    assert [request.target for request in upstream.requests] == ([listed] if listed else [])
    body = {"model": "default/m-1", "messages": [{"role": "user", "content": "Hi"}]}
    answer = await cluster.http.post("/v1/chat/completions", json=body)
    assert (answer.status_code, upstream.requests[-1].target) == (200, called), answer.text
    assert upstream.requests[-1].json()["model"] == "m-1"


async def test_a_provider_deleted_while_the_model_registry_is_down_is_gone_and_unlinked_later(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    groups = (("access-control", "provider-registry"), ("model-registry",), ("inference-router", GATEWAY))
    async with deployment(tmp_path, *groups) as made:
        for process in made.processes.values():
            await process.start()
        await made.http_ready()
        async with made.access() as access:
            await until(lambda: status_is(access.http, f"{MODELS}/providers", 200), seconds=PATIENCE)
            await access.add_provider("up", upstream.url, static_models=["m-1"])
            body = {"model": "default/m-1", "messages": []}
            assert (await access.http.post("/v1/chat/completions", json=body)).status_code == 200
            await made.processes["model-registry"].kill()
            assert (await access.http.delete(f"{MODELS}/providers/up")).status_code == 204

            async def unrouted() -> bool:
                return bool((await access.http.post("/v1/chat/completions", json=body)).status_code == 404)

            await until(unrouted, seconds=PATIENCE)
            await made.processes["model-registry"].start()

            async def unlinked() -> bool:
                found = await access.http.get(f"{MODELS}/models/m-1")
                return found.status_code == 200 and not found.json()["model_providers"]

            await until(unlinked, seconds=PATIENCE)
