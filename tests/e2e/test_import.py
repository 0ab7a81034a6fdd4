"""``junctor import`` as a person uses it: from a file, and from another platform's REST, into a running junctor."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from junctor.cli.app import build
from tests.cluster import Cluster, running
from tests.upstream import Json, ScriptedUpstream

Run = Callable[..., Awaitable[Result]]
CANARY = "sk-canary-7193"
ASKED = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def junctor(tmp_path: Path) -> Run:
    """Run a command; it must end with ``code``."""
    own: dict[str, str | None] = {
        f"JUNCTOR_{name}": None for name in ("BASE_URL", "WORKSPACE", "ACCESS_TOKEN", "OWNER")
    }
    own |= {"JUNCTOR_CONFIG_FILE": str(tmp_path / "none"), "COLUMNS": "400"}

    def invoke(arguments: tuple[str, ...], environ: dict[str, str | None]) -> Result:
        return CliRunner().invoke(build(), arguments, env={**own, **environ}, prog_name="junctor")

    async def run(*arguments: str, code: int = 0, **environ: str) -> Result:
        done = await asyncio.to_thread(invoke, arguments, {**environ})
        assert done.exit_code == code, (done.output, done.exception)
        assert CANARY not in done.output
        return done

    return run


async def test_litellm_to_files_to_junctor_to_an_answer(
    junctor: Run, cluster: Cluster, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "model_list:\n"
        "  - model_name: chat\n"
        f"    litellm_params: {{model: openai/test-model, api_base: '{upstream.url}/v1', api_key: os.environ/UP_KEY}}\n"
        "router_settings: {model_group_alias: {gpt-4: chat}}\n"
    )
    made = tmp_path / "made.yaml"
    done = await junctor("import", "litellm", str(config), "--out", str(made))
    assert "2 taken" in done.stderr
    where = {"JUNCTOR_BASE_URL": cluster.url, "UP_KEY": CANARY}
    await junctor("apply", "-f", str(made), **where)
    await cluster.provider_ready("openai")
    for model in ("chat", "gpt-4", "test-model"):
        answer = await cluster.http.post("/v1/chat/completions", json=ASKED | {"model": model})
        assert answer.status_code == 200, answer.text
    assert upstream.requests[-1].header("authorization") == f"Bearer {CANARY}"
    assert {
        row["result"] for row in json.loads((await junctor("apply", "-f", str(made), **where)).stdout)["resources"]
    } == {"unchanged"}


async def test_what_is_lost_is_reported_and_ends_with_two(junctor: Run, cluster: Cluster, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "model_list:\n"
        "  - {model_name: claude, litellm_params: {model: bedrock/anthropic.claude-v2}}\n"
        f"  - {{model_name: chat, litellm_params: {{model: openai/x, api_key: {CANARY}}}}}\n"
    )
    done = await junctor("import", "litellm", str(config), code=2)
    assert "model_list[0] claude" in done.stderr
    assert "SigV4" in done.stderr
    assert "kind: VirtualModel" in done.stdout
    told = json.loads((await junctor("import", "litellm", str(config), "-o", "json", code=2)).stdout)
    assert told["summary"] == {"not possible": 1, "changed": 1, "taken": 1}
    applied = await junctor(
        *("import", "litellm", str(config), "--apply", "--inline-secrets", "--owner", "moved", "-o", "json"),
        code=2,
        JUNCTOR_BASE_URL=cluster.url,
    )
    assert {each["result"] for each in json.loads(applied.stdout)["applied"]} == {"created"}
    secret = (await cluster.http.get("/apis/secrets/v2/workspaces/default/secrets/openai-key")).json()
    assert secret["labels"] == {"junctor/owner": "moved"}
    config.write_text("model_list: [")
    assert "is no YAML" in (await junctor("import", "litellm", str(config), code=1)).stderr


async def test_a_workspace_over_rest_becomes_the_same_workspace_here(
    junctor: Run, cluster: Cluster, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """The edge of another junctor stands in for the platform: it has the same contract."""
    async with running(tmp_path / "there") as there:
        await there.http.post("/apis/entities/v2/workspaces", json={"name": "team"})
        await there.http.post("/apis/secrets/v2/workspaces/team/secrets", json={"name": "key", "value": "old"})
        await there.add_provider("up", upstream.url, workspace="team", api_key_secret_name="key")
        virtual = {"name": "chat", "default_model_entity": "team/test-model"}
        await there.http.post("/apis/inference-gateway/v2/workspaces/team/virtual-models", json=virtual)
        made = tmp_path / "team.yaml"
        await junctor("import", "nemo", "--base-url", there.url, "-w", "team", "--out", str(made))
        assert "test-model\n" not in made.read_text().replace("team/test-model", "")
        assert (await junctor("import", "nemo", "--base-url", there.url, "-w", "no-such", code=1)).stderr
        assert (await junctor("import", "nemo", "--base-url", there.url, "--apply", code=2)).stderr.count("--to")
        applied = await junctor(
            *("import", "nemo", "--base-url", there.url, "-w", "team", "--apply", "--to", cluster.url, "-o", "json"),
            TEAM_KEY=CANARY,
        )
    assert [each["resource"] for each in json.loads(applied.stdout)["applied"]] == [
        "Workspace team",
        "Secret team/key",
        "Provider team/up",
        "VirtualModel team/chat",
    ]
    await cluster.provider_ready("up", workspace="team")
    path = "/apis/inference-gateway/v2/workspaces/team/openai/-/v1/chat/completions"
    assert (await cluster.http.post(path, json=ASKED)).status_code == 200
    assert upstream.requests[-1].header("authorization") == f"Bearer {CANARY}"


async def test_the_platforms_own_answers_are_understood(
    junctor: Run, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Its lists leave out what is null, know no versions and labels, and secrets' have no sort."""

    def page(*data: dict[str, object], **more: object) -> Json:
        about = {"page": 1, "page_size": 1000, "current_page_size": len(data), "total_pages": 1}
        return Json(200, {"data": list(data), "pagination": about | {"total_results": len(data)}, **more})

    models = "/apis/models/v2/workspaces/team"
    answers = {
        "/apis/entities/v2/workspaces": page({"name": "team", "description": "T"}, filter=None, sort="-created_at"),
        "/apis/secrets/v2/workspaces/team/secrets": page({"name": "key", "workspace": "team"}),
        f"{models}/providers": page(
            {"name": "up", "workspace": "team", "host_url": "https://h/v1", "api_key_secret_name": "key"},
            {"name": "bad", "workspace": "team", "host_url": "not-a-url", "status": "ERROR"},
            sort="name",
        ),
        f"{models}/models": page({"name": "mm", "workspace": "team", "custom_fields": {"a": 1}}, sort="name"),
        "/apis/inference-gateway/v2/workspaces/team/virtual-models": page(
            {"name": "auto", "workspace": "team", "autoprovisioned": True}, sort="name"
        ),
    }
    for path, answer in answers.items():
        upstream.always(answer, path=path)
    done = await junctor("import", "nemo", "--base-url", upstream.url, "-w", "team", "-o", "json", code=2)
    told = json.loads(done.stdout)
    assert [(each["kind"], each["name"]) for each in told["documents"]] == [
        ("Workspace", "team"),
        ("Secret", "key"),
        ("Provider", "up"),
        ("Model", "mm"),
    ]
    assert {each["entry"]: each["result"] for each in told["report"]} == {
        "Workspace team": "taken",
        "Secret team/key": "changed",
        "Provider team/bad": "not possible",
        "Provider team/up": "taken",
        "Model team/mm": "taken",
        "VirtualModel team/auto": "taken",
    }
