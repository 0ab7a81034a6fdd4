"""Every command against a running junctor with a scripted provider: what it does, and how it fails."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import tomllib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from junctor.cli.app import BUILT_IN, build
from junctor.cli.lazy import load
from services.up.vendors import VENDORS
from tests.cluster import Cluster
from tests.upstream import Json, ScriptedUpstream, Sse

Run = Callable[..., Awaitable[Result]]
MODEL = "test-model"


def environment_of(folder: Path) -> dict[str, str | None]:
    settings = ("BASE_URL", "WORKSPACE", "ACCESS_TOKEN", "GRPC_TARGET")
    unset: dict[str, str | None] = {f"JUNCTOR_{name}": None for name in settings}
    return {**unset, "JUNCTOR_CONFIG_FILE": str(folder / "config.toml"), "COLUMNS": "80", "NO_COLOR": "1"}


def invoke(folder: Path, *arguments: str, stdin: str = "", **environment: str) -> Result:
    settings = {**environment_of(folder), **environment}
    return CliRunner().invoke(build(), arguments, input=stdin, env=settings, prog_name="junctor")


@pytest.fixture
def junctor(cluster: Cluster, tmp_path: Path) -> Run:
    """Run a command against the cluster; it must end with ``code``."""
    where = {"JUNCTOR_BASE_URL": cluster.url, "JUNCTOR_GRPC_TARGET": f"127.0.0.1:{cluster.node.grpc_port}"}

    async def run(*arguments: str, stdin: str = "", code: int | None = 0, **environment: str) -> Result:
        done = await asyncio.to_thread(invoke, tmp_path, *arguments, stdin=stdin, **{**where, **environment})
        assert code is None or done.exit_code == code, done.output
        assert "Traceback" not in done.output
        return done

    return run


async def test_workspaces_from_create_to_delete(junctor: Run) -> None:
    made = json.loads((await junctor("workspaces", "create", "lab", "--description", "a")).stdout)
    assert (made["name"], made["description"]) == ("lab", "a")
    again = await junctor("workspaces", "create", "lab", code=1)
    assert again.stderr == (
        "junctor: Workspace 'lab' already exists; take another name, or accept it as it is with --exist-ok\n"
    )
    assert json.loads((await junctor("workspaces", "create", "lab", "--exist-ok")).stdout)["description"] == "a"
    assert json.loads((await junctor("workspaces", "update", "lab", "--description", "b")).stdout)["description"] == "b"
    assert "lab" in (await junctor("workspaces", "list", "-o", "table")).stdout
    assert (await junctor("workspaces", "delete", "lab")).stderr == "workspace lab deleted\n"
    gone = await junctor("workspaces", "get", "lab", code=1)
    assert gone.stderr == "junctor: Workspace 'lab' not found; see what there is: junctor workspaces list\n"


async def test_secrets_come_from_stdin_or_file_and_are_never_shown(junctor: Run, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret-file\n")
    shown = [
        await junctor("secrets", "create", "aa", "--workspace", "default", "--from-file", "-", stdin="s3cret-in\n"),
        await junctor("secrets", "create", "bb", "--value", "s3cret-flag"),
        await junctor("secrets", "update", "bb", "--from-file", str(tmp_path / "key"), "--description", "d"),
        await junctor("secrets", "list", "-o", "csv"),
        await junctor("secrets", "get", "aa"),
        await junctor("secrets", "create", "aa", "--value", "s3cret", code=1),
        await junctor("secrets", "create", "cc", code=2),
        await junctor("secrets", "update", "bb", code=2),
        await junctor("secrets", "create", "cc", "--from-file", "/no/such", code=1),
        await junctor("secrets", "delete", "aa", "bb"),
    ]
    assert all("s3cret" not in done.output for done in shown)
    assert "junctor secrets update NAME" in shown[5].stderr
    assert shown[8].stderr == "junctor: cannot read /no/such: No such file or directory\n"


async def test_models_with_json_fields_input_file_filter_and_sort(junctor: Run) -> None:
    flags = ["--custom-fields", '{"a": 1}', "--model-providers", "default/xx", "--trust-remote-code"]
    made = json.loads((await junctor("models", "create", "m-a", *flags)).stdout)
    assert (made["custom_fields"], made["model_providers"], made["trust_remote_code"]) == (
        {"a": 1},
        ["default/xx"],
        True,
    )
    from_file = json.dumps({"name": "m-b", "description": "filed", "project": "p"})
    other = json.loads(
        (await junctor("models", "create", "--input-file", "-", "--description", "flag", stdin=from_file)).stdout
    )
    assert (other["name"], other["description"], other["project"]) == ("m-b", "flag", "p")
    listed = await junctor("models", "list", "--filter", 'name~"m-"', "--sort", "-name", "-o", "csv")
    assert [row["NAME"] for row in csv.DictReader(io.StringIO(listed.stdout))] == ["m-b", "m-a"]
    page = json.loads((await junctor("models", "list", "--page", "2", "--page-size", "1")).stdout)
    assert (len(page["data"]), page["pagination"]["total_results"]) == (1, 2)
    whole = json.loads((await junctor("models", "list", "--page-size", "1")).stdout)
    assert len(whole["data"]) == whole["pagination"]["current_page_size"] == 2
    assert json.loads((await junctor("models", "update", "m-a", "--description", "d")).stdout)["description"] == "d"
    await junctor("models", "delete", "m-a")
    bad = await junctor("models", "list", "--filter", "bogus:1", code=1)
    assert bad.stderr.startswith("junctor: Unknown filter field 'bogus'")
    assert "no valid JSON" in (await junctor("models", "create", "xx", "--spec", "{", code=2)).stderr
    assert "holds no JSON object" in (await junctor("models", "create", "--input-file", "-", stdin="[]", code=1)).stderr
    assert "NAME" in (await junctor("models", "create", code=2)).stderr


async def test_providers_from_create_over_drain_to_delete(junctor: Run, upstream: ScriptedUpstream) -> None:
    path = ("inference", "providers")
    await junctor(*path, "create", "up", "--host-url", upstream.url, "--enabled-models", MODEL)
    waited = await junctor("wait", "inference", "provider", "up")
    assert waited.stderr == "provider default/up is ready: 1 model\n"
    assert json.loads((await junctor(*path, "drain", "up")).stdout)["admin_state"] == "DRAINING"
    assert json.loads((await junctor(*path, "reset", "up")).stdout)["name"] == "up"
    assert "DRAINING" in (await junctor(*path, "list", "-o", "table")).stdout
    assert json.loads((await junctor(*path, "disable", "up")).stdout)["admin_state"] == "DISABLED"
    enabled = json.loads((await junctor(*path, "enable", "up")).stdout)
    assert (enabled["admin_state"], enabled["enabled_models"]) == ("ACTIVE", [MODEL])
    replaced = json.loads((await junctor(*path, "update", "up", "--host-url", upstream.url)).stdout)
    assert replaced["enabled_models"] is None
    missing = await junctor(*path, "drain", "absent", code=1)
    assert missing.stderr.endswith("see what there is: junctor inference providers list\n")
    await junctor(*path, "delete", "up")
    assert "missing: --host-url" in (await junctor(*path, "create", "xx", code=2)).stderr


async def test_virtual_models(junctor: Run) -> None:
    path = ("inference", "virtual-models")
    made = await junctor(*path, "create", "alias", "--default-model-entity", "default/mm", "-o", "yaml")
    assert "default_model_entity: default/mm\n" in made.stdout
    routing = json.dumps({"targets": [{"model": "default/mm", "weight": 2}]})
    assert json.loads((await junctor(*path, "update", "alias", "--routing", routing)).stdout)["routing"]["targets"]
    assert "| alias |" in (await junctor(*path, "list", "-o", "markdown")).stdout
    await junctor(*path, "delete", "alias")
    assert "not found" in (await junctor(*path, "get", "alias", code=1)).stderr


@pytest.fixture
async def serving(cluster: Cluster, upstream: ScriptedUpstream) -> ScriptedUpstream:
    await cluster.add_provider("up", upstream.url)
    return upstream


async def test_what_can_be_called_where_and_why(junctor: Run, serving: ScriptedUpstream, cluster: Cluster) -> None:
    served = json.loads((await junctor("inference", "models", "list")).stdout)
    assert [model["id"] for model in served["data"]] == [f"default/{MODEL}"]
    base = f"{cluster.url}/apis/inference-gateway/v2/workspaces"
    assert (await junctor("inference", "get-url", "-w", "lab")).stdout == f"{base}/lab/openai/-/v1\n"
    assert (await junctor("inference", "get-url", "--provider", "up")).stdout == f"{base}/default/provider/up/-\n"
    by_model = await junctor("inference", "get-url", "--virtual-model", MODEL)
    assert by_model.stdout == f"{base}/default/model/{MODEL}/-\n"
    await junctor("inference", "get-url", "--provider", "absent", code=1)
    await junctor("inference", "get-url", "--provider", "up", "--virtual-model", MODEL, code=2)
    explained = json.loads((await junctor("inference", "explain", MODEL)).stdout)
    assert (explained["candidates"][0]["provider"], explained["candidates"][0]["position"]) == ("default/up", 1)
    assert "default/up" in (await junctor("inference", "explain", MODEL, "--provider", "up", "-o", "table")).stdout
    assert "absent" in (await junctor("inference", "explain", "absent", code=1)).stderr
    unreachable = await junctor("inference", "explain", MODEL, JUNCTOR_GRPC_TARGET="127.0.0.1:1", code=1)
    assert unreachable.stderr.endswith("name its address with --grpc-target HOST:PORT\n")
    await junctor("inference", "providers", "drain", "up")
    async with asyncio.timeout(60):
        while (done := await junctor("inference", "explain", MODEL, code=None)).exit_code == 0:
            await asyncio.sleep(0.01)
    assert "draining" in done.stdout
    assert done.stderr == "junctor: nothing would serve this call now\n"


@pytest.mark.parametrize("verb", ["get", "post", "put", "patch", "delete"])
@pytest.mark.parametrize("route", ["model", "provider", "openai"])
async def test_every_route_and_verb_of_the_gateway(
    junctor: Run, serving: ScriptedUpstream, route: str, verb: str
) -> None:
    serving.always(Json(200, {"ok": "ö"}))
    name = {"model": [MODEL], "provider": ["--name", "up"], "openai": []}[route]
    body = [] if verb == "get" else ["--body", json.dumps({"model": MODEL, "a": 1})]
    command = ["inference", "gateway", route, verb, "v1/thing", *name, "--param", "q=1", "--header", "X-Mine: 2"]
    if (route, verb) == ("openai", "get"):
        assert (await junctor(*command, code=1)).stderr.startswith("junctor: ")
        return
    assert json.loads((await junctor(*command, *body)).stdout) == {"ok": "ö"}
    seen = serving.requests[-1]
    assert (seen.method, seen.target, seen.header("x-mine")) == (verb.upper(), "/v1/thing?q=1", "2")
    assert verb == "get" or seen.json()["a"] == 1


async def test_gateway_streams_and_refuses_what_it_cannot_send(junctor: Run, serving: ScriptedUpstream) -> None:
    serving.always(Sse([{"choices": [{"delta": {"content": "a"}}]}]))
    post = ("inference", "gateway", "model", "post", "v1/chat/completions")
    streamed = await junctor(*post, MODEL, "--stream", "--input-file", "-", stdin='{"messages": []}')
    assert streamed.stdout.startswith("data: {")
    assert serving.requests[-1].json()["stream"] is True
    for wrong in (["--body", "{"], ["--param", "q"], ["--body", "1", "--input-file", "x"]):
        await junctor(*post, MODEL, *wrong, code=2)
    await junctor(*post, code=2)
    assert "'default/absent'" in (await junctor(*post, "absent", "--body", "{}", code=1)).stderr


async def test_a_conversation_keeps_what_was_said(junctor: Run, serving: ScriptedUpstream) -> None:
    lines = "one\ntwo\n/clear\nthree\n/exit\nnever\n"
    done = await junctor("chat", MODEL, "--interactive", "-s", "Be brief", stdin=lines)
    asked = [request.json()["messages"] for request in serving.requests if request.method == "POST"]
    assert [[message["role"] for message in messages] for messages in asked] == [
        ["system", "user"],
        ["system", "user", "assistant", "user"],
        ["system", "user"],
    ]
    assert asked[1][2]["content"] == done.stdout.splitlines()[0]
    assert asked[2][1]["content"] == "three"


async def test_a_failed_turn_ends_neither_the_conversation_nor_its_history(
    junctor: Run, serving: ScriptedUpstream
) -> None:
    serving.script(Json(400, {"error": {"message": "too rude"}}), path="/v1/chat/completions")
    done = await junctor("chat", MODEL, "one", "-i", stdin="two\n")
    assert done.stderr.startswith("junctor: ")
    assert "too rude" in done.stderr
    assert [message["content"] for message in serving.requests[-1].json()["messages"]] == ["two"]


async def test_status_and_doctor_see_health_and_trouble(junctor: Run, serving: ScriptedUpstream) -> None:
    seen = json.loads((await junctor("status")).stdout)
    assert (seen["status"], seen["models"]) == ("healthy", [f"default/{MODEL}"])
    assert set(seen["catalog"]) >= {"model_registry", "provider_registry"}
    told = (await junctor("status", "-o", "table")).stdout
    assert "is healthy" in told
    assert "READY" in told
    checks = {row["check"]: row["result"] for row in json.loads((await junctor("doctor")).stdout)}
    assert checks["provider up"] == checks["models"] == checks["gRPC"] == "ok"
    await junctor("inference", "providers", "create", "down", "--host-url", "http://127.0.0.1:1")
    sick = await junctor("doctor", "-o", "table", code=1)
    assert "junctor inference providers get" in sick.stdout
    lost = json.loads((await junctor("doctor", "-w", "nowhere", code=1)).stdout)
    assert any(row["next"] == "junctor workspaces create nowhere" for row in lost)
    dead = json.loads((await junctor("doctor", JUNCTOR_BASE_URL="http://127.0.0.1:1", code=1)).stdout)
    assert dead[-1]["next"] == "start a server with: junctor up"


async def test_waiting_tells_why_it_gave_up(junctor: Run) -> None:
    await junctor("wait", "inference", "gateway")
    await junctor("inference", "providers", "create", "down", "--host-url", "http://127.0.0.1:1")
    done = await junctor("wait", "inference", "provider", "down", "-t", "0", code=1)
    assert done.stderr.startswith("junctor: Provider default/down is ")
    await junctor("wait", "inference", "provider", "absent", code=1)


@pytest.mark.parametrize("lang", ["curl", "python", "grpc-python"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_snippets_run_as_they_are(
    junctor: Run, serving: ScriptedUpstream, tmp_path: Path, lang: str, stream: bool
) -> None:
    import sys

    flags = ["--stream"] if stream else []
    snippet = (await junctor("snippet", MODEL, "--lang", lang, "--prompt", 'It\'s "me"', *flags)).stdout
    file = tmp_path / "snippet"
    file.write_text(snippet)
    program = "sh" if lang == "curl" else sys.executable
    process = await asyncio.create_subprocess_exec(
        program, str(file), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, errors = await process.communicate()
    assert process.returncode == 0, errors
    assert b"Hel" in out
    sent: dict[str, Any] = serving.requests[-1].json()
    assert 'It\'s "me"' in json.dumps(sent["messages"]).replace('\\"', '"')


@pytest.mark.parametrize("lang", ["node", "litellm", "anthropic", "grpc-go"])
def test_other_snippets_name_model_and_address(tmp_path: Path, lang: str) -> None:
    for flags in ([], ["--stream"]):
        shown = invoke(tmp_path, "snippet", "lab/m", "--lang", lang, "--base-url", "http://h:1", *flags).stdout
        assert '"lab/m"' in shown
        assert "h:50051" in shown or "http://h:1" in shown
        assert "$" not in shown.replace("${", "")


async def test_detect_tells_what_came_of_each_finding(junctor: Run) -> None:
    none = {vendor.variable: "" for vendor in VENDORS}
    elsewhere = none | {"OPENAI_API_KEY": "sk-detected", "OPENAI_BASE_URL": "http://llm.corp.example/v1"}
    done = await junctor("detect", **elsewhere)
    [found] = [each for each in json.loads(done.stdout) if each["source"] == "OPENAI_API_KEY"]
    assert (found["state"], "OPENAI_BASE_URL" in found["note"]) == ("left alone", True)
    assert "sk-detected" not in done.output
    assert "OPENAI_API_KEY" not in (await junctor("detect", "-o", "csv", **none)).stdout
    away = await junctor("detect", **none, JUNCTOR_BASE_URL="http://127.0.0.1:1", code=1)
    assert away.stderr.startswith("junctor: ")


def test_config_and_auth_need_no_server_and_redact_tokens(tmp_path: Path) -> None:
    def run(*arguments: str, code: int = 0, stdin: str = "", **environment: str) -> Result:
        done = invoke(tmp_path, *arguments, stdin=stdin, **environment)
        assert done.exit_code == code, done.output
        return done

    assert run("auth", "header").stdout == "Authorization: Bearer not-needed\n"
    run("config", "set", "--base-url", "http://h:1/", "--workspace", "lab")
    run("config", "set", "--access-token", "-", "--context", "prod", "--activate", stdin="t0ken\n")
    assert run("config", "current-context").stdout == "prod\n"
    assert "t0ken" not in run("config", "view").stdout + run("config", "view", "-o", "table").stdout
    assert "t0ken" in run("config", "view", "--show-token").stdout
    assert run("auth", "header").stdout == "Authorization: Bearer t0ken\n"
    assert run("auth", "header", JUNCTOR_ACCESS_TOKEN="env").stdout == "Authorization: Bearer env\n"
    run("config", "use-context", "default")
    exports = run("env").stdout
    assert "export OPENAI_BASE_URL=http://h:1/apis/inference-gateway/v2/workspaces/lab/openai/-/v1\n" in exports
    assert "set -gx NMP_WORKSPACE 'lab'\n" in run("env", "--shell", "fish").stdout
    assert "$env:ANTHROPIC_BASE_URL = 'http://h:1'\n" in run("env", "--shell", "powershell").stdout
    assert "no context 'nope' (there are: default, prod)" in run("config", "use-context", "nope", code=1).stderr
    assert run("config", "set", code=2).stderr
    assert "must look like" in run("config", "set", "--base-url", "h:1", code=1).stderr
    saved = tomllib.loads((tmp_path / "config.toml").read_text())
    assert saved["contexts"]["prod"] == {"access_token": "t0ken"}
    (tmp_path / "config.toml").write_text("current =")
    assert run("config", "view", code=1).stderr.startswith(
        f"junctor: cannot read {tmp_path}/config.toml: no valid TOML"
    )


def _commands() -> Iterator[list[str]]:
    for name, spec in BUILT_IN.items():
        loaded = load(name, spec.target)
        if isinstance(loaded, typer.Typer):
            yield from _below(typer.main.get_command(loaded), [name])
        else:
            yield [name]


def _below(command: Any, path: list[str]) -> Iterator[list[str]]:
    if not hasattr(command, "commands"):
        yield path
        return
    for name, sub in command.commands.items():
        yield from _below(sub, [*path, name])


@pytest.mark.parametrize("path", list(_commands()), ids=" ".join)
def test_help_of_every_command_fits_the_screen_and_has_an_example(tmp_path: Path, path: list[str]) -> None:
    shown = invoke(tmp_path, *path, "--help").stdout
    assert max(map(len, shown.splitlines())) <= 80, max(shown.splitlines(), key=len)
    assert f"junctor {' '.join(path)}" in shown.partition("Examples:")[2]


@pytest.mark.parametrize(
    "path",
    sorted({tuple(path[:depth]) for path in _commands() for depth in range(len(path))}),
    ids=lambda path: " ".join(path) or "junctor",
)
def test_help_of_every_group_has_an_example_and_tells_each_command_whole(tmp_path: Path, path: tuple[str, ...]) -> None:
    shown = invoke(tmp_path, *path, "--help").stdout
    assert f"junctor {' '.join(path)}".rstrip() in shown.partition("Examples:")[2]
    assert "..." not in shown.partition("Commands:")[2]


async def test_flags_before_the_command_count_for_every_command(junctor: Run, serving: ScriptedUpstream) -> None:
    await junctor("workspaces", "create", "lab")
    shown = await junctor("-w", "lab", "-o", "csv", "models", "list")
    assert shown.stdout == "NAME,WORKSPACE,PROVIDERS,FORMAT,CREATED\n"
    own = await junctor("-w", "lab", "-o", "csv", "models", "list", "-w", "default", "--output-format", "json")
    assert [model["name"] for model in json.loads(own.stdout)["data"]] == [MODEL]
    over = await junctor("-w", "lab", "models", "list", "-f", "csv", JUNCTOR_WORKSPACE="default")
    assert MODEL not in over.stdout
    asked = await junctor("-w", "lab", "-f", "json", "chat", f"default/{MODEL}", "Hi")
    assert json.loads(asked.stdout)["model"]
    viewed = json.loads((await junctor("--base-url", "http://h:1", "-w", "lab", "config", "view")).stdout)
    assert viewed["settings"]["base_url"] == {"value": "http://h:1", "from": "argument"}
    assert viewed["settings"]["workspace"]["value"] == "lab"
    away = await junctor("--base-url", "http://127.0.0.1:1", "models", "list", code=1)
    assert away.stderr.startswith("junctor: cannot connect to http://127.0.0.1:1;")


async def test_columns_of_a_list_are_chosen_by_name(junctor: Run, serving: ScriptedUpstream) -> None:
    chosen = await junctor("inference", "providers", "list", "-c", "name,Host-URL,status", "-o", "csv")
    assert chosen.stdout == f"NAME,HOST URL,STATUS\nup,{serving.url},READY\n"
    every = await junctor("inference", "providers", "list", "--output-columns", "all", "-o", "csv")
    assert "ADMIN STATE" in every.stdout.splitlines()[0]
    refused = await junctor("inference", "models", "list", "-c", "id,nope", "-o", "table", code=2)
    assert "no field 'nope'; there are: created, id, model, " in refused.stderr
    cut = await junctor("inference", "providers", "list", "-c", "all", "-o", "table")
    whole = await junctor("inference", "providers", "list", "-c", "all", "-o", "table", "--no-truncate", "--all-pages")
    assert ("…" in cut.stdout, "…" in whole.stdout) == (True, False)


async def test_one_name_that_routes_and_a_status_set_by_hand(junctor: Run, serving: ScriptedUpstream) -> None:
    assert json.loads((await junctor("inference", "models", "get", MODEL)).stdout)["id"] == f"default/{MODEL}"
    absent = await junctor("inference", "models", "get", "absent", code=1)
    assert absent.stderr.endswith("see what can be called: junctor inference models list\n")
    path = ("inference", "providers", "update-status", "up")
    told = await junctor(*path, "--status", "READY", "--input-data", '{"status_message": "by hand", "status": "ERROR"}')
    assert (json.loads(told.stdout)["status"], json.loads(told.stdout)["status_message"]) == ("READY", "by hand")
    assert "nothing to set" in (await junctor(*path, code=2)).stderr
    both = await junctor("models", "create", "m-c", "--input-file", "-", "--input-data", "{}", stdin="{}", code=2)
    assert "not both" in both.stderr
    made = await junctor("models", "create", "--input-data", '{"name": "m-c", "description": "d"}')
    assert (json.loads(made.stdout)["name"], json.loads(made.stdout)["description"]) == ("m-c", "d")
