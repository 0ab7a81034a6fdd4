"""Pages of other origins: none may read an answer unless a setting names it, and none may use what a browser keeps."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from services.settings import Settings, SettingsError
from tests.cluster import Cluster, running
from tests.e2e.core import GATEWAY, MODELS, Thread, thread
from tests.upstream import Json, ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

LISTED = "https://app.example"
FOREIGN = [
    "https://evil.example",
    "null",
    "*",
    "https://app.example.evil.example",
    "https://app.example:444",
    "http://app.example",
    "https://app.example/",
    "https://app.example, https://evil.example",
    "https://APP.example",
    "https://xapp.example",
    "",
]
CHAT = {"model": "default/test-model", "messages": []}
REQUESTS = {
    "a call": ("POST", "/v1/chat/completions", 200, CHAT),
    "the same again": ("POST", "/v1/chat/completions", 200, CHAT),
    "a call that streams": ("POST", f"{GATEWAY}/default/openai/-/v1/chat/completions", 200, {**CHAT, "stream": True}),
    "a refused call": ("POST", "/v1/chat/completions", 404, {**CHAT, "model": "default/none"}),
    "a wrong method": ("TRACE", "/v1/chat/completions", 405, None),
    "a list": ("GET", f"{MODELS}/default/providers", 200, None),
    "a missing thing": ("GET", f"{MODELS}/default/providers/none", 404, None),
    "a bad body": ("POST", f"{MODELS}/default/providers", 422, {"name": 1}),
    "served models": ("GET", "/v1/models", 200, None),
    "health": ("GET", "/health/ready", 200, None),
    "the document": ("GET", "/openapi.json", 200, None),
    "no path": ("GET", "/none", 404, None),
    "a bad target": ("GET", "/%zz", 404, None),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["off", "listed"])
async def edge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Thread]:
    flags = {} if request.param == "off" else {"cors_origins": f"{LISTED},http://localhost:3000"}
    folder = tmp_path_factory.mktemp(request.param)
    async with ScriptedUpstream() as upstream, running(folder, **flags) as cluster:
        yield await thread(cluster, upstream)


def is_on(edge: Thread) -> bool:
    assert isinstance(edge.access, Cluster)
    return bool(edge.access.node.settings.cors_origins)


def allowed(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


@pytest.mark.parametrize("origin", [LISTED, "http://localhost:3000", *FOREIGN])
@pytest.mark.parametrize(("method", "path", "status", "body"), REQUESTS.values(), ids=REQUESTS.keys())
async def test_an_answer_names_only_a_listed_origin(
    edge: Thread, method: str, path: str, status: int, body: object, origin: str
) -> None:
    answer = await edge.http.request(method, path, json=body, headers={"origin": origin})
    assert answer.status_code == status
    listed = is_on(edge) and origin not in FOREIGN
    assert answer.headers.get("access-control-allow-origin") == (origin if listed else None)
    assert "access-control-allow-credentials" not in answer.headers
    assert set(allowed(answer)) == (
        {"access-control-allow-origin", "access-control-expose-headers"} if listed else set()
    )
    assert ("origin" in answer.headers.get("vary", "").lower()) == is_on(edge)


@pytest.mark.parametrize("origin", [LISTED, *FOREIGN])
@pytest.mark.parametrize("path", ["/v1/chat/completions", f"{MODELS}/default/providers", "/none"])
async def test_a_preflight_is_answered_for_listed_origins_alone(edge: Thread, path: str, origin: str) -> None:
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type, x-stainless-os",
    }
    answer = await edge.http.options(path, headers=asked)
    if not is_on(edge) or origin in FOREIGN:
        assert answer.status_code in (404, 405)
        assert allowed(answer) == {}
        return
    assert answer.status_code == 204
    assert answer.content == b""
    assert allowed(answer) == {
        "access-control-allow-origin": LISTED,
        "access-control-allow-methods": "GET, POST, PUT, PATCH, DELETE",
        "access-control-allow-headers": "authorization, content-type, x-stainless-os",
        "access-control-max-age": "600",
        "access-control-expose-headers": answer.headers["access-control-expose-headers"],
    }


@pytest.mark.parametrize("names", ["", "a b", "x:y", "x\ty", "a,,b", "x" * 5000, "é"])
async def test_a_preflight_says_back_only_names(edge: Thread, names: str) -> None:
    asked = {
        "origin": LISTED,
        "access-control-request-method": "POST",
        "access-control-request-headers": names.encode(),
    }
    answer = await edge.http.options("/v1/models", headers=asked)
    assert "access-control-allow-headers" not in answer.headers


async def test_a_provider_does_not_say_who_may_read(edge: Thread) -> None:
    said = {
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Expose-Headers": "*",
        "Timing-Allow-Origin": "*",
    }
    edge.upstream.script(Json(200, {"ok": True}, headers=list(said.items())), path="/v1/anything")
    answer = await edge.http.post(
        f"{GATEWAY}/default/provider/up/-/v1/anything", json={}, headers={"origin": "https://evil.example"}
    )
    assert answer.json() == {"ok": True}
    assert allowed(answer) == {}
    assert "timing-allow-origin" not in answer.headers


async def test_every_name_that_is_exposed_is_a_header_of_ours(edge: Thread) -> None:
    answer = await edge.http.get("/health/live", headers={"origin": LISTED})
    exposed = answer.headers.get("access-control-expose-headers", "")
    assert re.fullmatch(r"(?:[a-z-]+(?:, )?)*", exposed)
    assert "*" not in exposed


@pytest.mark.parametrize("value", ["*", "null", "app.example", "https://a.example/x", "ftp://a", "https://", "a,*"])
async def test_only_explicit_origins_can_be_set(value: str, tmp_path: Path) -> None:

    with pytest.raises(SettingsError, match="CORS_ORIGINS"):
        Settings.load({}, {"HOME": str(tmp_path), "JUNCTOR_CORS_ORIGINS": value}, services=("gateway",))
