"""A provider that nobody of us wrote: LiteLLM's proxy, with a key of its own, in front of the scripted upstream."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.cluster import Cluster, running, until
from tests.compat import environments
from tests.compat.worker import clean_environment
from tests.ports import free_port
from tests.upstream import ScriptedUpstream, Status

pytestmark = [pytest.mark.compat, pytest.mark.asyncio(loop_scope="module")]

KEY = "sk-proxy-1234"
START_SECONDS = 120.0
"""Bound of the proxy's start; only ends one that hangs."""
GATEWAY = "/apis/inference-gateway/v2/workspaces/default"
REGISTRY = "/apis/models/v2/workspaces/default/providers"
SECRETS = "/apis/secrets/v2/workspaces/default/secrets"


@dataclass
class Chain:
    """Caller, junctor, LiteLLM's proxy, upstream."""

    cluster: Cluster
    upstream: ScriptedUpstream
    proxy: str


def configuration(upstream: str) -> str:
    def model(name: str) -> dict[str, object]:
        served = {"model": f"openai/{name}", "api_base": f"{upstream}/v1", "api_key": "x", "max_retries": 0}
        return {"model_name": name, "litellm_params": served}

    models = [model("test-model"), model("embed-1")]
    return json.dumps(
        {"model_list": models, "general_settings": {"master_key": KEY}, "router_settings": {"num_retries": 0}}
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chain(
    tmp_path_factory: pytest.TempPathFactory, environment: Callable[[str, Callable[[], Path]], Path]
) -> AsyncIterator[Chain]:
    python = environment("LiteLLM's proxy", lambda: environments.python_with("vendors"))
    folder = tmp_path_factory.mktemp("proxy")
    async with ScriptedUpstream() as upstream, running(folder / "junctor") as cluster:
        (folder / "config.yaml").write_text(configuration(upstream.url))
        with proxy_of(python, folder) as url:
            await until(lambda: alive(url), seconds=START_SECONDS)
            await cluster.http.post(SECRETS, json={"name": "proxy-key", "value": KEY})
            await cluster.add_provider("litellm", f"{url}/v1", api_key_secret_name="proxy-key")
            yield Chain(cluster, upstream, url)


class proxy_of:  # noqa: N801 - a context manager, read as one
    """The proxy as a process on a free port."""

    def __init__(self, python: Path, folder: Path) -> None:
        self._port = free_port()
        self._command = [str(python.with_name("litellm")), "--config", str(folder / "config.yaml"), "--host"]
        self._command += ["127.0.0.1", "--port", str(self._port), "--telemetry", "False"]
        self._folder = folder

    def __enter__(self) -> str:
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=clean_environment(self._folder), cwd=self._folder
            )
        return f"http://127.0.0.1:{self._port}"

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


async def alive(url: str) -> bool:
    try:
        async with httpx.AsyncClient(trust_env=False) as http:
            return (await http.get(f"{url}/health/liveliness")).status_code == 200
    except httpx.TransportError:
        return False


async def test_its_models_are_found_and_route(chain: Chain) -> None:
    listed = (await chain.cluster.http.get("/v1/models")).json()["data"]
    assert {"default/test-model", "default/embed-1"} <= {model["id"] for model in listed}


@pytest.mark.parametrize(
    "path", ["/v1", f"{GATEWAY}/openai/-/v1", f"{GATEWAY}/model/test-model/-/v1", f"{GATEWAY}/provider/litellm/-/v1"]
)
async def test_a_chat_goes_through_both_gateways(chain: Chain, path: str) -> None:
    body = {"model": "test-model", "messages": [{"role": "user", "content": "Hi"}]}
    answer = (await chain.cluster.http.post(f"{path}/chat/completions", json=body)).json()
    assert answer["choices"][0]["message"]["content"] == "Hello"
    assert answer["model"] == ("test-model" if "provider" in path else "default/test-model")
    streamed = (await chain.cluster.http.post(f"{path}/chat/completions", json={**body, "stream": True})).text
    events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    assert "".join(each["choices"][0]["delta"].get("content") or "" for each in events if each["choices"]) == "Hello"
    assert streamed.rstrip().endswith("data: [DONE]")


async def test_embeddings_go_through_both(chain: Chain) -> None:
    answer = (await chain.cluster.http.post("/v1/embeddings", json={"model": "embed-1", "input": "Hi"})).json()
    assert answer["data"][0]["embedding"] == [0.25, -0.5]


async def test_its_error_reaches_the_caller_with_status_and_words(chain: Chain) -> None:
    chain.upstream.script(Status(429, retry_after=7), path="/v1/chat/completions")
    body = {"model": "test-model", "messages": []}
    answer = await chain.cluster.http.post(f"{GATEWAY}/provider/litellm/-/v1/chat/completions", json=body)
    assert (answer.status_code, answer.headers["x-junctor-error-source"]) == (429, "provider")
    assert answer.json()["error"]["message"]


async def test_a_wrong_key_is_told_and_heals(chain: Chain) -> None:
    http = chain.cluster.http
    await http.post(SECRETS, json={"name": "wrong-key", "value": "sk-wrong"})
    created = {"name": "wrong", "host_url": f"{chain.proxy}/v1", "api_key_secret_name": "wrong-key"}
    await http.post(REGISTRY, json=created)

    async def told() -> bool:
        # Without a database the proxy answers 400 to a key that it does not know.
        return "answered 400" in (await http.get(f"{REGISTRY}/wrong")).json()["status_message"]

    await until(told)
    await http.patch(f"{SECRETS}/wrong-key", json={"value": KEY})
    await chain.cluster.provider_ready("wrong")
