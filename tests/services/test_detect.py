"""Detection and the demo's registration, against a stand-in for the edge's REST API on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn

from services.demo import server as demo_server
from services.up.detect import detect, is_model_server
from services.up.edge import Edge, EdgeRefused
from services.up.findings import State
from services.up.keys import add_keys
from services.up.register import register_demo
from services.up.vendors import VENDORS, LocalServer

OPENAI = {"OPENAI_API_KEY": "sk-one"}
SEEDED = {
    "host_url": "https://integrate.api.nvidia.com",
    "api_key_secret_name": "nvidia-api-key",
    "description": "NVIDIA Build",
}


class StandIn:
    """The part of the REST API that detection calls: keeps what it got, lists in pages of one."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, str, Any]] = []
        self.refuse = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        status, answer = self.answer(scope, json.loads(body) if body else None)
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    def answer(self, scope: Any, body: Any) -> tuple[int, Any]:
        method, path = scope["method"], scope["path"]
        self.calls.append((method, path, body))
        if self.refuse:
            return self.refuse, {"detail": f"refused {body}"}
        key = f"{path}/{body['name']}" if method == "POST" else path
        if method == "GET" and path.endswith("/providers"):
            return 200, self.page(path, scope["query_string"].decode())
        if method == "POST" and key in self.objects:
            return 409, {"detail": "exists"}
        if method != "POST" and key not in self.objects:
            return 404, {"detail": "not found"}
        if method in ("POST", "PUT"):
            self.objects[key] = {"name": key.rpartition("/")[2], **body}
        if method == "PATCH":
            self.objects[key] |= body
        shown = {name: value for name, value in self.objects[key].items() if name != "value"}
        return 201 if method == "POST" else 200, shown

    def page(self, path: str, query: str) -> dict[str, Any]:
        found = [entry for key, entry in self.objects.items() if key.startswith(path + "/")]
        page = int(dict(pair.split("=") for pair in query.split("&"))["page"])
        return {"data": found[page - 1 : page], "pagination": {"total_pages": len(found)}}

    def provider(self, name: str, **fields: Any) -> dict[str, Any]:
        key = f"/apis/models/v2/workspaces/{name.replace('/', '/providers/')}"
        return self.objects.setdefault(key, {"name": name.partition("/")[2], **fields})

    def secret(self, name: str, **fields: Any) -> dict[str, Any]:
        key = f"/apis/secrets/v2/workspaces/{name.replace('/', '/secrets/')}"
        return self.objects.setdefault(key, {"name": name.partition("/")[2], **fields})

    @property
    def writes(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path, _ in self.calls if method != "GET"]


@contextlib.asynccontextmanager
async def serving(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    config = uvicorn.Config(app, port=0, loop="none", lifespan="off", log_config=None, timeout_graceful_shutdown=1)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        yield client
    await server.shutdown()


@pytest.fixture
def standin() -> StandIn:
    return StandIn()


@pytest.fixture
async def client(standin: StandIn) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(standin) as client:
        yield client


@contextlib.asynccontextmanager
async def answering(**answers: bytes) -> AsyncIterator[int]:
    """Answer ``GET`` by the last word of the path with raw bytes; unknown ones are 404."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        word = request.split(b" ")[1].rpartition(b"/")[2].decode()
        writer.write(answers.get(word, b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"))
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def ok(body: str, *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"content-length: {len(body)}", *headers, "", body]
    return "\r\n".join(lines).encode()


MODELS = ok('{"object":"list","data":[]}')


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ({"models": MODELS}, True),
        ({"models": MODELS, "discovery": ok("<html>")}, True),
        ({}, False),
        ({"models": ok("<html>")}, False),
        ({"models": ok("[1]")}, False),
        ({"models": ok('{"data":{}}')}, False),
        ({"models": b"not http at all\r\n\r\n"}, False),
        ({"models": ok('{"data":[]}', "x-junctor-error-source: gateway")}, False),
        ({"models": MODELS, "discovery": ok('{"auth_enabled":false,"oidc":null}')}, False),
        ({"models": b"HTTP/1.1 302 Found\r\nlocation: /v1/other\r\ncontent-length: 0\r\n\r\n"}, False),
    ],
    ids=["models", "page", "404", "html", "list", "shape", "no-http", "marked", "other-gateway", "redirect"],
)
async def test_what_counts_as_a_model_server(answers: dict[str, bytes], found: bool) -> None:
    async with answering(**answers) as port, httpx.AsyncClient(trust_env=False) as client:
        assert await is_model_server(client, port) is found


async def test_a_server_that_never_answers_is_given_up() -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        held = asyncio.Event()

        async def hold(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await held.wait()
            writer.close()

        async with await asyncio.start_server(hold, "127.0.0.1", 0) as server:
            assert await is_model_server(client, server.sockets[0].getsockname()[1]) is False
            held.set()


async def test_a_local_server_becomes_a_provider_once(client: httpx.AsyncClient, standin: StandIn) -> None:
    local = await demo_server.start(pace=0)
    table = [LocalServer(local.port, "ollama", "Ollama"), LocalServer(1, "nobody", "Nobody")]
    first = await detect(client, environment={}, own_ports=(), servers=table)
    again = await detect(client, environment={}, own_ports=(), servers=table)
    own = await detect(client, environment={}, own_ports={local.port}, servers=table)
    await local.stop()
    assert [found.state for found in first + again] == [State.ADDED, State.KEPT]
    assert first[0].line == f"Ollama on 127.0.0.1:{local.port} -> default/ollama: added"
    assert own == []
    assert standin.writes == [("POST", "/apis/models/v2/workspaces/default/providers")]
    assert standin.provider("default/ollama")["host_url"] == local.url


@pytest.mark.parametrize("host", ["http://localhost:{}/v1", "http://127.0.0.1:{}"])
async def test_a_local_server_that_the_user_registered_is_not_made_twice(
    client: httpx.AsyncClient, standin: StandIn, host: str
) -> None:
    async with answering(models=MODELS) as port:
        standin.provider("default/mine", host_url=host.format(port))
        table = [LocalServer(port, "ollama", "Ollama")]
        found = await detect(client, environment={}, own_ports=(), servers=table)
    assert (found[0].state, found[0].note) == (State.KEPT, "as default/mine")
    assert standin.writes == []


async def test_a_users_provider_of_the_same_name_is_left_alone(client: httpx.AsyncClient, standin: StandIn) -> None:
    before = dict(standin.provider("default/ollama", host_url="http://gpu.lan:1"))
    async with answering(models=MODELS) as port:
        table = [LocalServer(port, "ollama", "Ollama")]
        found = await detect(client, environment={}, own_ports=(), servers=table)
    assert found[0].state is State.LEFT_ALONE
    assert standin.provider("default/ollama") == before


async def test_every_key_becomes_a_secret_and_a_provider_of_its_vendor(
    client: httpx.AsyncClient, standin: StandIn
) -> None:
    environment = {vendor.variable: f"key-{vendor.provider}" for vendor in VENDORS}
    standin.provider("system/nvidia-build", **SEEDED)
    found = await detect(client, environment=environment, own_ports=(), servers=())
    assert [(entry.source, entry.state) for entry in found] == [(v.variable, State.ADDED) for v in VENDORS]
    for vendor in VENDORS:
        provider = standin.provider(f"{vendor.workspace}/{vendor.provider}")
        secret = standin.secret(f"{vendor.workspace}/{provider['api_key_secret_name']}")
        assert secret["value"] == f"key-{vendor.provider}"
        assert secret["value"] not in secret["description"] + provider["description"]
    anthropic = standin.provider("default/anthropic")
    assert anthropic["auth_header_format"] == "x-api-key: {{ auth_secret }}"
    assert anthropic["default_extra_headers"] == {"anthropic-version": "2023-06-01"}
    gemini = standin.provider("default/gemini")
    assert gemini["host_url"] == "https://generativelanguage.googleapis.com"
    assert gemini["api_base_path"] == "/v1beta/openai"
    assert standin.provider("system/nvidia-build")["api_key_secret_name"] == "nvidia-api-key"


async def test_the_same_key_again_writes_nothing_that_lasts(client: httpx.AsyncClient, standin: StandIn) -> None:
    await add_keys(Edge(client), OPENAI)
    before = json.dumps(standin.objects)
    again = await add_keys(Edge(client), OPENAI)
    assert again[0].state is State.KEPT
    assert json.dumps(standin.objects) == before


async def test_a_changed_key_changes_the_secret_that_detection_made(
    client: httpx.AsyncClient, standin: StandIn
) -> None:
    await add_keys(Edge(client), OPENAI)
    found = await add_keys(Edge(client), {"OPENAI_API_KEY": "sk-two"})
    assert found[0].state is State.UPDATED
    assert standin.secret("default/openai-api-key")["value"] == "sk-two"
    assert (await add_keys(Edge(client), {"OPENAI_API_KEY": "sk-two"}))[0].state is State.KEPT


async def test_the_seeded_provider_only_gets_its_key(client: httpx.AsyncClient, standin: StandIn) -> None:
    standin.provider("system/nvidia-build", **SEEDED)
    found = await add_keys(Edge(client), {"NVIDIA_API_KEY": "nvapi-1"})
    assert found[0].line == "NVIDIA_API_KEY -> system/nvidia-build: added"
    assert standin.writes == [("POST", "/apis/secrets/v2/workspaces/system/secrets")]


async def test_a_seeded_provider_that_is_not_there_is_not_made(client: httpx.AsyncClient, standin: StandIn) -> None:
    found = await add_keys(Edge(client), {"NVIDIA_API_KEY": "nvapi-1"})
    assert (found[0].state, found[0].note) == (State.LEFT_ALONE, "there is no system/nvidia-build")
    assert standin.writes == []


MADE = "Made by junctor up from OPENAI_API_KEY"
THERE = {"host_url": "https://api.openai.com/v1", "api_key_secret_name": "openai-api-key"}


@pytest.mark.parametrize(
    ("provider", "note"),
    [
        (("default/openai", {**THERE, "description": "Mine"}), "the provider is yours"),
        (("default/openai", {**THERE, "description": MADE, "host_url": "https://evil.test"}), "the provider is yours"),
        (("default/openai", {**THERE, "description": MADE, "api_key_secret_name": "x"}), "the provider is yours"),
        (("default/mine", {"host_url": "https://api.openai.com"}), "there is default/mine"),
    ],
    ids=["theirs", "moved-elsewhere", "other-secret", "other-name"],
)
async def test_a_key_is_not_stored_where_a_user_set_up_the_vendor(
    client: httpx.AsyncClient, standin: StandIn, provider: tuple[str, dict[str, Any]], note: str
) -> None:
    name, fields = provider
    standin.provider("default/on-the-first-page", host_url="http://gpu.lan")
    standin.provider(name, **fields)
    found = await add_keys(Edge(client), OPENAI)
    assert (found[0].state, found[0].note) == (State.LEFT_ALONE, note)
    assert standin.writes == []


async def test_a_users_secret_is_neither_changed_nor_used(client: httpx.AsyncClient, standin: StandIn) -> None:
    standin.secret("default/openai-api-key", value="theirs", description="Mine")
    found = await add_keys(Edge(client), OPENAI)
    assert (found[0].state, found[0].note) == (State.LEFT_ALONE, "secret openai-api-key is yours")
    assert standin.secret("default/openai-api-key")["value"] == "theirs"
    assert not any("/providers/" in key for key in standin.objects)


@pytest.mark.parametrize(
    ("environment", "states"),
    [
        ({"OPENAI_API_KEY": " "}, []),
        ({**OPENAI, "OPENAI_BASE_URL": "http://127.0.0.1:8080/v1"}, [State.LEFT_ALONE]),
        ({**OPENAI, "OPENAI_BASE_URL": "https://api.openai.com/v1"}, [State.ADDED]),
        ({"OPENAI_API_KEY": "sk\nX: y"}, [State.LEFT_ALONE]),
        ({"OPENAI_API_KEY": "x" * 70_000}, [State.LEFT_ALONE]),
    ],
    ids=["blank", "key-of-another-host", "same-host", "line-break", "too-long"],
)
async def test_which_keys_are_taken(
    client: httpx.AsyncClient, environment: dict[str, str], states: list[State]
) -> None:
    assert [found.state for found in await add_keys(Edge(client), environment)] == states


async def test_a_refusal_is_told_without_the_key_and_stops_nothing(client: httpx.AsyncClient, standin: StandIn) -> None:
    standin.refuse = 503
    async with answering(models=MODELS) as port:
        table = [LocalServer(port, "ollama", "Ollama")]
        found = await detect(client, environment=OPENAI, own_ports=(), servers=table)
    assert [entry.state for entry in found] == [State.FAILED, State.FAILED]
    assert "503" in found[1].line
    assert "sk-one" not in found[1].line


async def test_the_demo_is_registered_and_follows_its_port(client: httpx.AsyncClient, standin: StandIn) -> None:
    assert await register_demo(client, "http://127.0.0.1:1") is State.ADDED
    assert await register_demo(client, "http://127.0.0.1:1") is State.KEPT
    standin.provider("default/demo")["enabled_models"] = ["demo/echo-1"]
    assert await register_demo(client, "http://127.0.0.1:2") is State.UPDATED
    demo = standin.provider("default/demo")
    assert (demo["host_url"], demo["enabled_models"]) == ("http://127.0.0.1:2", ["demo/echo-1"])


async def test_a_users_provider_named_demo_is_left_alone(client: httpx.AsyncClient, standin: StandIn) -> None:
    before = dict(standin.provider("default/demo", host_url="http://gpu.lan", description="Mine"))
    assert await register_demo(client, "http://127.0.0.1:1") is State.LEFT_ALONE
    assert standin.provider("default/demo") == before


async def test_an_edge_that_is_gone_is_a_refusal() -> None:
    async with httpx.AsyncClient(base_url="http://127.0.0.1:1", trust_env=False) as client:
        with pytest.raises(EdgeRefused, match="did not answer"):
            await register_demo(client, "http://127.0.0.1:2")
