"""The HTTP door: who is let in, and what is told to whom."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.cluster import until
from tests.doors import KEYS, MODELS, Doors
from tests.upstream import ScriptedUpstream, Sse

CHAT = "/v1/chat/completions"
UNAUTHORIZED = "Unauthorized"
INVALID = "Invalid or expired token"


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}


OPEN = ("/health/live", "/health/ready", "/status", "/apis/auth/discovery")


OTHERS = [
    ("GET", "/v1/models"),
    ("POST", CHAT),
    ("POST", "/v1/unheard-of"),
    ("GET", "/nowhere"),
    ("DELETE", CHAT),
    ("GET", "/openapi.json"),
    ("GET", "/health/live/../../v1/models"),
    ("GET", "/health//live"),
    ("GET", "/status/"),
    ("GET", "/%68ealth/live"),
    ("OPTIONS", "/v1/models"),
    ("PUT", "/health/ready/x"),
    ("POST", "/apis/inference-gateway/v2/workspaces/BAD NAME/openai/-/v1/chat/completions"),
    ("GET", KEYS),
    ("GET", f"{MODELS}/-/models"),
]


async def test_everything_but_a_few_paths_is_401_first(guarded: Doors) -> None:
    for path in OPEN:
        assert (await guarded.call("GET", path)).status_code == 200, path
    for method, path in OTHERS:
        for key, text in ((None, UNAUTHORIZED), ("nobody's", INVALID), ("jnct_" + "1" * 43, INVALID)):
            answer = await guarded.call(method, path, key)
            assert (answer.status_code, answer.json()["detail"]) == (401, text), (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"


async def raw(guarded: Doors, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", guarded.cluster.node.http_port)
    writer.write(request)
    try:
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


HOSTS = [b"x/health/live?", b"x/health/live#", b"a b", b"127.0.0.1:1/status", b"x\\y", b"localhost", b""]


async def test_no_host_opens_a_path(guarded: Doors) -> None:
    for host in HOSTS:
        for path, status in ((b"/v1/models", b"401"), (b"/nowhere", b"401"), (b"http://other/health/live", b"400")):
            request = b"GET %b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (path, host)
            assert (await raw(guarded, request)).split(b"\r\n")[0].split()[1] == status, (host, path)


async def test_a_fault_of_host_is_told_to_whom_it_may_concern(guarded: Doors) -> None:
    head = b"GET /v1/models HTTP/1.1\r\nHost: a/b\r\nAuthorization: Bearer %b\r\nConnection: close\r\n\r\n"
    assert b" 400 " in (await raw(guarded, head % guarded.admin.encode())).split(b"\r\n")[0]


SPOOFS = {
    "x-junctor-caller": "AAAA",
    "x-junctor-service-token": "x" * 43,
    "x-nmp-principal-id": "admin",
    "x-forwarded-user": "admin",
    "x-remote-user": "admin",
    "x-auth-request-user": "admin",
    "forwarded": "for=127.0.0.1",
    "x-forwarded-for": "127.0.0.1",
    "cookie": "session=admin",
    "proxy-authorization": "Bearer admin",
    "x-user-id": "admin",
    "x-principal": "key:key-bootstrap",
    "x-original-url": "/health/live",
    "x-rewrite-url": "/health/live",
    "x-http-method-override": "GET",
}


async def test_no_identity_comes_from_a_header(guarded: Doors) -> None:
    viewer = await guarded.key("Viewer")
    for name, value in SPOOFS.items():
        spoof = {name: value}
        assert (await guarded.call("GET", "/v1/models", headers=spoof)).status_code == 401, name
        refused = await guarded.call("POST", f"{MODELS}/default/models", viewer, headers=spoof, json={"name": "mine"})
        assert refused.status_code == 403, name


async def test_each_field_carries_a_key_and_none_of_them_goes_to_the_provider(
    guarded: Doors, upstream: ScriptedUpstream
) -> None:
    await guarded.provider("scripted", upstream.url)
    for field in ("authorization", "x-api-key", "api-key"):
        shown = f"Bearer {guarded.admin}" if field == "authorization" else guarded.admin
        for _ in range(3):  # the head is read as new, then as known
            answer = await guarded.call("POST", CHAT, headers={field: shown}, json=chat("default/test-model"))
            assert answer.status_code == 200, answer.text
    assert guarded.admin not in str([request.headers for request in upstream.requests])


async def test_two_keys_that_differ_are_none(guarded: Doors) -> None:
    answer = await guarded.call("GET", "/v1/models", guarded.admin, headers={"x-api-key": "other"})
    assert (answer.status_code, answer.json()["detail"]) == (401, INVALID)
    same = await guarded.call("GET", "/v1/models", guarded.admin, headers={"x-api-key": guarded.admin})
    assert same.status_code == 200


async def test_a_revoked_key_is_refused_on_a_connection_that_knows_it(
    guarded: Doors, upstream: ScriptedUpstream
) -> None:
    await guarded.provider("scripted", upstream.url)
    viewer = await guarded.key("Viewer")
    assert (await guarded.call("POST", CHAT, viewer, json=chat("default/test-model"))).status_code == 200
    keys = (await guarded.call("GET", KEYS, guarded.admin)).json()["data"]
    mine = next(key for key in keys if viewer.startswith(key["prefix"]) and key["role"] == "Viewer")
    assert (await guarded.call("DELETE", f"{KEYS}/{mine['id']}", guarded.admin)).status_code == 204

    async def refused() -> bool:
        answer = await guarded.call("POST", CHAT, viewer, json=chat("default/test-model"))
        return answer.status_code == 401

    await until(refused)


async def test_a_new_key_works_at_once(guarded: Doors) -> None:
    for _ in range(20):
        key = await guarded.key("Viewer")
        assert (await guarded.call("GET", "/v1/models", key)).status_code == 200


async def test_models_of_a_key(guarded: Doors, upstream: ScriptedUpstream) -> None:
    await guarded.workspace("team")
    await guarded.provider("scripted", upstream.url)
    await guarded.provider("scripted", upstream.url, workspace="team")
    everywhere = {each["id"] for each in (await guarded.call("GET", "/v1/models", guarded.admin)).json()["data"]}
    assert {"default/test-model", "team/test-model"} <= everywhere
    key = await guarded.key("Viewer", "team", models=["team/test-*"])
    listed = {each["id"] for each in (await guarded.call("GET", "/v1/models", key)).json()["data"]}
    assert listed == {"team/test-model"}
    assert (await guarded.call("POST", CHAT, key, json=chat("team/test-model"))).status_code == 200
    hidden = await guarded.call("POST", CHAT, key, json=chat("default/test-model"))
    absent = await guarded.call("POST", CHAT, key, json=chat("default/nothing"))
    assert (hidden.status_code, absent.status_code) == (404, 404)
    assert hidden.text.replace("test-model", "nothing") == absent.text
    other = await guarded.key("Viewer", "team", models=["gpt-*"])
    refused = await guarded.call("POST", CHAT, other, json=chat("team/test-model"))
    assert (refused.status_code, refused.json()["detail"]) == (403, "Forbidden")
    pinned = "/apis/inference-gateway/v2/workspaces/team/provider/scripted/-/v1/chat/completions"
    assert (await guarded.call("POST", pinned, other, json=chat("test-model"))).status_code == 403


async def test_a_keys_concurrency(guarded: Doors, upstream: ScriptedUpstream) -> None:
    await guarded.provider("scripted", upstream.url)
    key = await guarded.key("Viewer", limits={"concurrency": 1})
    gate = asyncio.Event()
    seen = len(upstream.requests)
    upstream.script(Sse(["{}", gate, "[DONE]"]), path="/v1/chat/completions")
    first = asyncio.create_task(guarded.call("POST", CHAT, key, json=chat("default/test-model", stream=True)))

    async def begun() -> bool:
        return len(upstream.requests) > seen

    await until(begun)
    second = await guarded.call("POST", CHAT, key, json=chat("default/test-model"))
    assert (second.status_code, second.headers["retry-after"]) == (429, "1")
    assert second.json()["error"]["code"] == "rate_limit_exceeded"
    gate.set()
    assert (await first).status_code == 200
    assert (await guarded.call("POST", CHAT, key, json=chat("default/test-model"))).status_code == 200
