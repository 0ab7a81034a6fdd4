"""What an operator asks of running processes and changes in them: no secret leaves, nobody else may, no restart."""

from __future__ import annotations

import asyncio
import json
import socket
import tarfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster import running, until
from tests.e2e.processes import process
from tests.ports import free_port
from tests.upstream import Json, ScriptedUpstream

ASKED = {"model": "test-model", "messages": [{"role": "user", "content": "canary-content-01"}]}
CANARIES = {
    "secret value": "sk-canary-value-02",
    "header value": "canary-header-03",
    "body value": "canary-body-04",
    "content": "canary-content-01",
    "answer": "canary-answer-05",
    "admin key": "jk_canaryadminkey06canaryadminkey06canaryadmin06",
    "proxy password": "canary-proxy-07",
}


def command(folder: Path, *arguments: str, **environ: str) -> Any:
    return process("junctor", *arguments, folder=folder, **environ)


async def run(folder: Path, *arguments: str, code: int = 0, **environ: str) -> str:
    async with command(folder, *arguments, **environ) as started:
        assert await started.ended() == code, started.stderr
        assert "Traceback" not in started.stderr
        return started.stdout


def contents(archive: Path) -> dict[str, str]:
    with tarfile.open(archive) as opened:
        return {name: opened.extractfile(name).read().decode() for name in opened.getnames()}  # type: ignore[union-attr]


async def test_a_bundle_has_what_helps_and_no_secret(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    upstream.always(Json(200, {"choices": [{"message": {"content": CANARIES["answer"]}}]}), path="/v1/chat/completions")
    flags = {
        "admin_port": str(free_port()),
        "admin_key": CANARIES["admin key"],
        "https_proxy": f"http://user:{CANARIES['proxy password']}@127.0.0.1:9",
    }
    async with running(tmp_path, **flags) as cluster:
        secrets = "/apis/secrets/v2/workspaces/default/secrets"
        await cluster.http.post(secrets, json={"name": "key", "value": CANARIES["secret value"]})
        await cluster.add_provider(
            "up",
            upstream.url,
            api_key_secret_name="key",
            required_extra_headers={"x-own": CANARIES["header value"]},
            default_extra_body={"user": CANARIES["body value"]},
        )
        assert (await cluster.http.post("/v1/chat/completions", json=ASKED)).status_code == 200
        assert (await cluster.http.post("/v1/chat/completions", json=ASKED | {"model": "none"})).status_code == 404
        token_file = cluster.node.settings.service_token_file
        admin = f"http://127.0.0.1:{cluster.node.settings.admin_port}"
        out = tmp_path / "bundle.tar.gz"
        await run(
            tmp_path / "cli",
            *("debug", "bundle", "--admin", admin, "--token-file", str(token_file), "--out", str(out)),
            JUNCTOR_BASE_URL=cluster.url,
        )
    files = contents(out)
    assert out.stat().st_mode & 0o077 == 0
    told = json.loads(files["junctor-debug/process-1/process/info.json"])
    assert told["versions"]["junctor"]
    assert set(told["stores"]) >= {"access-control", "model-registry", "provider-registry"}
    assert told["router"]["revisions"]["provider_registry"] == told["stores"]["provider-registry"]["revision"]
    assert any(line.startswith("admin_port") for line in told["settings"])
    calls = json.loads(files["junctor-debug/process-1/process/calls.json"])
    assert [(call["verdict"], call["model"], call["error"]) for call in calls] == [
        ("failed", "", "NO_ROUTE"),
        ("complete", "default/test-model", ""),
    ]
    assert "services" in files["junctor-debug/process-1/process/tasks.json"]
    assert "junctor_requests_total" in files["junctor-debug/process-1/metrics.txt"]
    [provider] = json.loads(files["junctor-debug/edge/Provider.json"])
    assert (provider["status"], provider["served_models"][0]["served_model_name"]) == ("READY", "test-model")
    whole = "\n".join(files.values())
    token = token_file.read_text().strip()
    assert [name for name, canary in {**CANARIES, "token": token}.items() if canary in whole] == []


async def test_a_bundle_of_what_can_be_reached_says_what_could_not(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t" * 43)
    out = tmp_path / "bundle.tar.gz"
    nobody = f"http://127.0.0.1:{free_port()}"
    flags = ("--admin", nobody, "--token-file", str(tmp_path / "token"), "--out", str(out))
    async with command(tmp_path / "cli", "debug", "bundle", *flags, JUNCTOR_BASE_URL=nobody) as started:
        assert await started.ended() == 1
        assert f"not in it: process-1 ({nobody}): {nobody}: cannot connect" in started.stderr
    manifest = json.loads(contents(out)["junctor-debug/manifest.json"])
    assert set(manifest["not_reached"]) == {"edge", f"process-1 ({nobody})"}


async def test_a_process_that_hangs_holds_nothing_up(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t" * 43)
    out = tmp_path / "bundle.tar.gz"
    with socket.create_server(("127.0.0.1", 0)) as hangs:  # the kernel takes connections, and nobody answers
        url = f"http://127.0.0.1:{hangs.getsockname()[1]}"
        flags = ("--admin", url, "--token-file", str(tmp_path / "token"), "--out", str(out), "--timeout", "0.2")
        async with command(tmp_path / "cli", "debug", "bundle", *flags, JUNCTOR_BASE_URL=url) as started:
            assert await started.ended() == 1
            assert f"{url}: no answer in time" in started.stderr
    manifest = json.loads(contents(out)["junctor-debug/manifest.json"])
    assert set(manifest["not_reached"]) == {"edge", f"process-1 ({url})"}


@pytest.mark.parametrize("workers", ["1", "2"], ids=["one process", "two workers"])
async def test_levels_and_sampling_change_while_every_process_runs(
    tmp_path: Path, upstream: ScriptedUpstream, workers: str
) -> None:
    port, admin_port = free_port(), free_port()
    flags = ("--port", str(port), "--grpc-port", "0", "--admin-port", str(admin_port), "--data-dir", "data")
    flags += ("--no-demo", "--no-detect", "--workers", workers)
    admin = f"http://127.0.0.1:{admin_port}"
    async with (
        process("junctor", "up", *flags, folder=tmp_path, JUNCTOR_LOG_LEVEL="error", JUNCTOR_SEED="false") as up,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as http,
    ):
        await until(lambda: answers(http), seconds=60)
        home = {"HOME": up.environ["HOME"], "XDG_CONFIG_HOME": up.environ.get("XDG_CONFIG_HOME", "")}
        home = {name: value for name, value in home.items() if value}
        changed = json.loads(await run(tmp_path / "a", "admin", "log-level", "debug", "--admin", admin, **home))
        names = {"process"} if workers == "1" else {"supervisor", "worker-1", "worker-2"}
        assert {name: told["levels"][""] for name, told in changed[admin].items()} == dict.fromkeys(names, "debug")
        await run(tmp_path / "b", "admin", "log-level", "error", "--admin", admin, **home)
        chosen = ("--request-id", "req-wanted", "--tag", "team=search")
        await run(tmp_path / "c", "admin", "sampling", *chosen, "--admin", admin, **home)
        created = {"name": "up", "host_url": upstream.url}
        await http.post("/apis/models/v2/workspaces/default/providers", json=created)
        await until(lambda: routes(http), seconds=60)
        for request_id in ("req-wanted", "req-other"):
            answer = await http.post("/v1/chat/completions", json=ASKED, headers={"x-request-id": request_id})
            assert answer.status_code == 200
        await until(lambda: logged(up.folder, "req-wanted"), seconds=30)
        lines = [json.loads(line) for line in up.stderr.splitlines() if "request in detail" in line]
        assert [line["request_id"] for line in lines] == ["req-wanted"]
        assert "canary" not in up.stderr
        refused = await run(tmp_path / "d", "admin", "log-level", "loud", "--admin", admin, code=1, **home)
        assert refused == ""


async def answers(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/health/ready")).status_code == 200
    except httpx.TransportError:
        return False


async def routes(http: httpx.AsyncClient) -> bool:
    path = "/apis/inference-gateway/v2/workspaces/default/provider/up/ready"
    served = [(await http.get(path)).status_code for _ in range(4)]  # of each worker, as far as chance has it
    return set(served) == {200}


async def logged(folder: Path, request_id: str) -> bool:
    text = await asyncio.to_thread((folder / "stderr").read_text)
    return f'"request_id": "{request_id}"' in text
