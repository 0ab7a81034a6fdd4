"""The unmodified ``nemo`` CLI 0.3.0: every command of the tutorial, its output and its exit code."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.compat import environments
from tests.compat.place import Edge, Place
from tests.compat.worker import Worker, clean_environment
from tests.upstream import CLOSE, RESET, Json, OpenAI, Sse, Status

pytestmark = pytest.mark.compat

SAID = "You said: Hello"
CHAT = "/v1/chat/completions"
PIECE: dict[str, Any] = {
    "id": "c-1",
    "object": "chat.completion.chunk",
    "created": 0,
    "model": "test-model",
    "choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": None}],
}


@dataclass(frozen=True)
class Nemo:
    """The command, with base URL and workspace configured by its environment variables."""

    worker: Worker
    env: dict[str, str]

    async def __call__(self, *argv: str, stdin: str | None = None, fails: bool = False) -> Any:
        """Return what the command printed: parsed when it is JSON, else text; on failure what it said."""
        done = await self.worker.call("run", argv=list(argv), stdin=stdin, env=self.env)
        if fails:
            assert done["exit"] == 1, done
            return " ".join((done["out"] + done["err"]).split())
        assert done["exit"] == 0, done
        try:
            return json.loads(done["out"])
        except json.JSONDecodeError:
            return done["out"].strip()


@pytest.fixture(scope="session")
def command(start: Callable[[str, str], Worker]) -> Worker:
    """The CLI, imported once."""
    return start("nemo", "nemo_cli")


@pytest.fixture
def nemo(command: Worker, place: Place) -> Nemo:
    """The CLI in the test's own workspace."""
    return Nemo(command, {"NMP_BASE_URL": place.edge.url, "NMP_WORKSPACE": place.workspace})


@pytest.fixture
def demo(command: Worker, edge: Edge) -> Nemo:
    """The CLI in the default workspace."""
    return Nemo(command, {"NMP_BASE_URL": edge.url, "NMP_WORKSPACE": "default"})


async def test_the_installed_script_after_config_set(
    environment: Callable[[str, Callable[[], Path]], Path], edge: Edge, tmp_path: Path
) -> None:
    python = environment("nemo-platform", lambda: environments.python_with("nemo"))

    async def run(*argv: str) -> str:
        process = await asyncio.create_subprocess_exec(
            str(python.with_name("nemo")),
            *argv,
            env=clean_environment(tmp_path),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return out.decode()

    await run("config", "set", "--base-url", edge.url)
    assert json.loads(await run("config", "view"))["clusters"][0]["base_url"] == edge.url + "/"
    assert (await run("chat", "demo-echo-1", "Hello")).startswith(SAID)


async def test_models(nemo: Nemo, place: Place) -> None:
    created = await nemo("models", "create", "mine", "--description", "a", "--custom-fields", '{"n": [1, 2.5]}')
    assert created == created | {"name": "mine", "workspace": place.workspace, "custom_fields": {"n": [1, 2.5]}}
    assert await nemo("models", "get", "mine") == created
    again = await nemo("models", "create", "mine", "--description", "other", "--exist-ok")
    assert again == created
    # An entity made by hand is an entry of the catalog: only what a provider serves can be called.
    assert "No VirtualModel named" in await nemo("chat", "mine", "Hello", fails=True)
    updated = await nemo("models", "update", "mine", "--description", "b", "--backend-format", "OPENAI_CHAT")
    assert updated == updated | {"description": "b", "backend_format": "OPENAI_CHAT", "custom_fields": {"n": [1, 2.5]}}
    await nemo("models", "delete", "mine")
    assert "not found" in await nemo("models", "get", "mine", fails=True)
    assert "not found" in await nemo("models", "delete", "mine", fails=True)


async def test_model_lists_are_filtered_sorted_and_paged(nemo: Nemo) -> None:
    for name in ("alpha", "beta"):
        await nemo("models", "create", name, "--input-data", json.dumps({"name": name, "description": f"is {name}"}))

    async def names(*options: str) -> list[str]:
        return [model["name"] for model in (await nemo("models", "list", *options))["data"]]

    assert await names("--sort", "-name") == ["test-model", "beta", "alpha"]
    assert await names("--filter.name", "beta") == ["beta"]
    assert await names("--filter", '{"name": {"$like": "LPH"}}') == ["alpha"]
    assert await names("--filter", '{"$not": {"name": "alpha"}}', "--sort", "name") == ["beta", "test-model"]
    assert await names("--filter", '{"name": {"$in": ["alpha", "beta"]}}', "--sort", "name") == ["alpha", "beta"]
    assert await names("--filter", '{"created_at": {"gte": "2100-01-01"}}') == []
    assert await names("--filter.prompt") == await names("--filter.finetuning-type") == []
    assert await names("--filter.base-model", "false", "--sort", "name") == ["alpha", "beta", "test-model"]
    assert await names("--page-size", "2", "--page", "2", "--sort", "name") == ["test-model"]
    every = await nemo("models", "list", "--page-size", "1", "--all-pages", "--sort", "name")
    assert [model["name"] for model in every["data"]] == ["alpha", "beta", "test-model"]
    page = (await nemo("models", "list", "--page-size", "2"))["pagination"]
    assert page == {"page": 1, "page_size": 2, "current_page_size": 2, "total_pages": 2, "total_results": 3}
    table = await nemo("models", "list", "-f", "table")
    assert "alpha" in table


async def test_providers(nemo: Nemo, place: Place) -> None:
    create = ("inference", "providers", "create", "mine", "--host-url", place.upstream.url)
    options = ("--enabled-models", "a", "--enabled-models", "b", "--default-extra-body", '{"temperature": 0.5}')
    created = await nemo(*create, *options)
    wanted = {"enabled_models": ["a", "b"], "default_extra_body": {"temperature": 0.5}, "status": "CREATED"}
    assert created == created | wanted | {"host_url": place.upstream.url, "served_models": []}
    assert "already exists" in await nemo(*create, fails=True)
    assert (await nemo(*create, "--exist-ok"))["enabled_models"] == ["a", "b"]
    updated = await nemo("inference", "providers", "update", "mine", "--host-url", place.upstream.url + "/v1")
    assert updated == updated | {
        "host_url": place.upstream.url + "/v1",
        "enabled_models": None,
        "default_extra_body": None,
    }
    got = await nemo("inference", "providers", "get", "mine")
    assert (got["name"], got["host_url"]) == ("mine", updated["host_url"])
    listed = await nemo("inference", "providers", "list", "--sort", "-name", "--filter.host-url", got["host_url"])
    assert [provider["name"] for provider in listed["data"]] == ["mine"]
    both = await nemo("inference", "providers", "list", "--sort", "status")
    assert {provider["name"] for provider in both["data"]} == {"mine", "up"}
    await nemo("inference", "providers", "delete", "mine")
    said = await nemo("inference", "providers", "get", "mine", fails=True)
    assert f"Model provider not found: {place.workspace}/mine" in said


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("models", "create", "meta/llama-3"), "name"),
        (("models", "create", "test-model"), "already exists"),
        (("models", "list", "--filter", '{"bogus": "x"}'), "Unknown filter field 'bogus'"),
        # This client writes a list of conditions as Python prints it, which is no JSON: better refused than guessed.
        (("models", "list", "--filter", '{"$or": [{"name": "a"}, {"name": "b"}]}'), "Invalid filter"),
        (("models", "list", "--workspace", "nowhere"), "Workspace 'nowhere' not found"),
        (("inference", "providers", "create", "pp", "--host-url", "not-a-url"), "host_url"),
        (
            ("inference", "providers", "create", "pp", "--host-url", "http://h", "--api-key-secret-name", "no"),
            "Secret 'no'",
        ),
        (
            (
                "inference",
                "providers",
                "create",
                "pp",
                "--host-url",
                "http://h",
                "--default-extra-headers",
                '{"Cookie": "a"}',
            ),
            "not allowed in default_extra_headers",
        ),
        (("secrets", "get", "nope"), "not found"),
        (("workspaces", "get", "nope"), "Workspace 'nope' not found"),
        (("inference", "get-url", "--provider", "nope"), "Model provider not found"),
        (("inference", "get-url", "--virtual-model", "nope"), "not found"),
        (("chat", "nope", "Hello"), "No VirtualModel named"),
        (("chat", "Vendor/Model", "Hello"), "Invalid"),
        (("wait", "inference", "provider", "nope", "--timeout", "1"), "nope"),
    ],
)
async def test_what_is_refused_is_said_and_exits_1(nemo: Nemo, argv: tuple[str, ...], says: str) -> None:
    assert says in await nemo(*argv, fails=True)


async def test_a_secret_from_stdin_is_sent_to_the_provider_and_never_shown(
    nemo: Nemo, place: Place, tmp_path: Path
) -> None:
    created = await nemo("secrets", "create", "key", "--from-file", "-", stdin="k-one\n")
    assert "value" not in created
    url = place.upstream.url
    await nemo("inference", "providers", "create", "mine", "--host-url", url, "--api-key-secret-name", "key")
    await nemo("wait", "inference", "provider", "mine")
    place.upstream.requests.clear()
    await nemo("chat", "test-model", "Hello", "--provider", "mine")
    assert _chat(place).header("authorization") == "Bearer k-one"
    (tmp_path / "key").write_text("k-two")
    await nemo("secrets", "update", "key", "--from-file", str(tmp_path / "key"), "--description", "second")
    place.upstream.requests.clear()
    async with asyncio.timeout(60):
        while not any(r.header("authorization") == "Bearer k-two" for r in place.upstream.requests):
            await nemo("chat", "test-model", "Hello", "--provider", "mine")
    listed = await nemo("secrets", "list")
    assert [secret["name"] for secret in listed["data"]] == ["key"]
    assert "k-two" not in json.dumps([listed, await nemo("secrets", "get", "key")])
    assert "k-two" not in await nemo("secrets", "access", "key", fails=True)
    await nemo("secrets", "delete", "key")
    assert "not found" in await nemo("secrets", "get", "key", fails=True)


async def test_workspaces(nemo: Nemo, place: Place) -> None:
    name = f"{place.workspace}-b"
    created = await nemo("workspaces", "create", name, "--description", "a")
    assert created == created | {"name": name, "description": "a"}
    assert "already exists" in await nemo("workspaces", "create", name, fails=True)
    assert await nemo("workspaces", "create", name, "--exist-ok") == created
    assert (await nemo("workspaces", "update", name, "--description", "b"))["description"] == "b"
    listed = await nemo("workspaces", "list", "--all-pages")
    assert {"default", "system", name} <= {workspace["name"] for workspace in listed["data"]}
    like = json.dumps({"name": {"$like": place.workspace.upper()}})
    found = await nemo("workspaces", "list", "--filter", like, "--sort", "-name")
    assert [workspace["name"] for workspace in found["data"]] == [name, place.workspace]
    await nemo("workspaces", "delete", name)
    assert "not found" in await nemo("workspaces", "get", name, fails=True)


async def test_virtual_models(nemo: Nemo, place: Place) -> None:
    group = ("inference", "virtual-models")
    created = await nemo(*group, "create", "alias", "--default-model-entity", place.model)
    assert created == created | {"autoprovisioned": False, "default_model_entity": place.model}
    listed = (await nemo(*group, "list", "--sort", "name"))["data"]
    assert [(vm["name"], vm["autoprovisioned"]) for vm in listed] == [("alias", False), ("test-model", True)]
    mine = (await nemo(*group, "list", "--exclude-autoprovisioned"))["data"]
    assert [vm["name"] for vm in mine] == ["alias"]
    found = await nemo(*group, "list", "--filter.default-model-entity", place.model, "--sort", "-name")
    assert [vm["name"] for vm in found["data"]] == ["test-model", "alias"]
    assert await nemo("chat", "alias", "Hello") == "Hello"
    assert (await nemo(*group, "get", "alias"))["id"] == created["id"]
    assert await nemo(*group, "create", "alias", "--exist-ok") == created
    patched = await nemo(*group, "patch", "alias", "--default-model-entity", f"{place.workspace}/other")
    assert patched["default_model_entity"] == f"{place.workspace}/other"
    await nemo(*group, "delete", "alias")
    assert "not found" in await nemo(*group, "get", "alias", fails=True)


@pytest.mark.parametrize(
    ("group", "further"),
    [
        (("workspaces",), ()),
        (("models",), ()),
        (("inference", "virtual-models"), ()),
        (("inference", "providers"), ("--host-url", "http://127.0.0.1:9")),
        (("secrets",), ("--value", "v")),
    ],
    ids=lambda value: "-".join(value) if value and not value[0].startswith("--") else "",
)
async def test_every_resource_is_listed_by_pages(
    nemo: Nemo, place: Place, group: tuple[str, ...], further: tuple[str, ...]
) -> None:
    names = [f"{word}-{place.workspace}" for word in ("alpha", "beta", "gamma")]
    for name in names:
        await nemo(*group, "create", name, *further)
    every = await nemo(*group, "list", "--page-size", "1", "--all-pages")
    assert {item["name"] for item in every["data"]} >= set(names)
    (only,) = (await nemo(*group, "list", "--page-size", "1", "--page", "2"))["data"]
    assert only["name"] in {item["name"] for item in every["data"]}
    for name in names:
        await nemo(*group, "delete", name)
        assert "not found" in await nemo(*group, "get", name, fails=True)


async def test_created_waited_for_and_listed(nemo: Nemo, place: Place) -> None:
    place.upstream.always(OpenAI("meta/llama-3.2-1b-instruct"), path="/v1/models")
    await nemo("inference", "providers", "create", "mine", "--host-url", place.upstream.url)
    assert "Gateway is ready" in await nemo("wait", "inference", "provider", "mine")
    ids = [model["id"] for model in (await nemo("inference", "models", "list"))["data"]]
    assert f"{place.workspace}/meta-llama-3-2-1b-instruct" in ids
    got = await nemo("inference", "gateway", "provider", "ready", "mine")
    assert got == {"ready": True, "provider": f"{place.workspace}/mine", "host_url": place.upstream.url}


async def test_urls(nemo: Nemo, place: Place) -> None:
    assert await nemo("inference", "get-url") == place.openai
    assert await nemo("inference", "get-url", "--provider", "up") == f"{place.gateway}/provider/up/-"
    entity = await nemo("inference", "get-url", "--virtual-model", "test-model")
    assert entity == f"{place.gateway}/model/test-model/-"


def _chat(place: Place) -> Any:
    return next(request for request in place.upstream.requests if request.target == CHAT)


async def test_chat_streams_with_the_options_given(nemo: Nemo, place: Place) -> None:
    options = ("--max-tokens", "7", "--temperature", "0.5", "--system-message", "be brief")
    assert await nemo("chat", "test-model", "Hello", *options) == "Hello"
    sent = _chat(place).json()
    assert (sent["model"], sent["stream"], sent["max_tokens"], sent["temperature"]) == ("test-model", True, 7, 0.5)
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]
    answer = await nemo("chat", place.model, "Hello", "-f", "json")
    assert (answer["content"], answer["model"]) == ("Hello", place.model)
    assert await nemo("chat", "test-model", stdin="Hello") == "Hello"


async def test_chat_by_provider_sends_the_id_as_it_is(nemo: Nemo, place: Place) -> None:
    assert await nemo("chat", "Vendor/Any:Id", "Hello", "--provider", "up") == "Hello"
    assert _chat(place).json()["model"] == "Vendor/Any:Id"


async def test_chat_with_the_demo_model(demo: Nemo) -> None:
    assert (await demo("chat", "demo-echo-1", "Hello")).startswith(SAID)
    assert (await demo("chat", "demo/echo-1", "Hello", "--provider", "demo")).startswith(SAID)


@pytest.mark.parametrize("by", [(), ("--provider", "up")], ids=["model", "provider"])
@pytest.mark.parametrize("ending", [CLOSE, RESET], ids=["close", "reset"])
async def test_chat_over_a_broken_stream_exits_1(nemo: Nemo, place: Place, ending: Any, by: tuple[str, ...]) -> None:
    place.upstream.always(Sse([PIECE, ending]), path=CHAT)
    assert "Hel" in await nemo("chat", "test-model", "Hello", *by, fails=True)


async def test_chat_says_what_the_provider_said(nemo: Nemo, place: Place) -> None:
    place.upstream.always(Status(400, message="too many words"), path=CHAT)
    assert "too many words" in await nemo("chat", "test-model", "Hello", fails=True)


async def test_gateway_commands(nemo: Nemo, place: Place) -> None:
    group = ("inference", "gateway")
    listed = await nemo(*group, "provider", "get", "v1/models", "--name", "up")
    assert [model["id"] for model in listed["data"]] == ["test-model"]
    body = json.dumps({"messages": [{"role": "user", "content": "Hello"}]})
    answer = await nemo(*group, "model", "post", "v1/chat/completions", "test-model", "--body", body)
    assert answer["model"] == place.model
    place.upstream.always(Json(200, {"ok": True}), path="/v1/things")
    change = json.dumps({"name": "up", "body": {"a": 1}})
    for verb in ("put", "patch"):
        assert await nemo(*group, "provider", verb, "v1/things", "--input-data", change) == {"ok": True}
    named = await nemo(*group, "openai", "v1", "models", "list")
    assert [model["id"] for model in named["data"]] == [place.model]
