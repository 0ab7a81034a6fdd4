"""``junctor doctor`` at broken set-ups: it names the cause, and what to run or change next."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from junctor.cli.app import build
from tests.cluster import Cluster
from tests.upstream import Json, ScriptedUpstream


def invoke(folder: Path, environment: dict[str, str]) -> Result:
    names = ("BASE_URL", "WORKSPACE", "ACCESS_TOKEN", "GRPC_TARGET")
    unset: dict[str, str | None] = {f"JUNCTOR_{name}": None for name in names}
    settings = {**unset, "JUNCTOR_CONFIG_FILE": str(folder / "config.toml"), **environment}
    return CliRunner().invoke(build(), ["doctor", "-o", "json"], env=settings, prog_name="junctor")


async def sick(folder: Path, **environment: str) -> list[dict[str, str]]:
    """Run it and return what is not well."""
    done = await asyncio.to_thread(invoke, folder, environment)
    assert "Traceback" not in done.output
    return [row for row in json.loads(done.stdout) if row["result"] != "ok"]


@pytest.fixture
def another_server() -> Iterator[str]:
    class Quiet(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("url", "found", "following"),
    [
        ("http://127.0.0.1:1", "cannot connect to http://127.0.0.1:1", "start a server with: junctor up"),
        ("http://192.0.2.1.invalid", "no host has this name", "is the address right? see: junctor config view"),
        ("https://{http}", "it does not speak TLS", "is the address right? see: junctor config view"),
        ("http://{grpc}", "its HTTP port, not its gRPC port", "junctor config view"),
        ("http://{http}/apis", "is not junctor (Not Found)", "junctor config view"),
        ("{another}", "is not junctor (the server answered 404 Not Found)", "junctor config view"),
    ],
    ids=["nobody-listens", "no-such-host", "no-tls", "grpc-port", "path", "another-server"],
)
async def test_a_wrong_address(
    cluster: Cluster, another_server: str, tmp_path: Path, url: str, found: str, following: str
) -> None:
    places = {"http": cluster.url.removeprefix("http://"), "grpc": f"127.0.0.1:{cluster.node.grpc_port}"}
    [told] = await sick(tmp_path, JUNCTOR_BASE_URL=url.format(another=another_server, **places))
    assert (told["check"], told["result"]) == ("server", "fail")
    assert found.removeprefix("its ") in told["found"]
    assert told["next"] == following


@pytest.mark.parametrize(
    ("environment", "file", "line"),
    [
        ({"JUNCTOR_BASE_URL": "localhost:8080"}, "", "the base URL must look like http://localhost:8080"),
        ({"JUNCTOR_BASE_URL": "http://h:1/v1/"}, "", "the base URL must be junctor's own, without /v1 at its end"),
        ({}, "current =", "cannot read {folder}/config.toml: no valid TOML"),
    ],
    ids=["no-scheme", "openais-url", "broken-file"],
)
def test_settings_that_cannot_be_used(tmp_path: Path, environment: dict[str, str], file: str, line: str) -> None:
    (tmp_path / "config.toml").write_text(file)
    done = invoke(tmp_path, environment)
    assert done.exit_code == 1
    assert done.stderr.startswith("junctor: " + line.format(folder=tmp_path))
    assert done.stderr.count("\n") == 1


async def test_what_is_wrong_behind_the_address(cluster: Cluster, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    here = {"JUNCTOR_BASE_URL": cluster.url, "JUNCTOR_GRPC_TARGET": f"127.0.0.1:{cluster.node.grpc_port}"}
    empty = {row["check"]: row for row in await sick(tmp_path, **here)}
    assert empty["providers"]["next"].startswith("junctor inference providers create NAME --host-url URL")
    missing = {row["check"]: row for row in await sick(tmp_path, **here, JUNCTOR_WORKSPACE="nowhere")}
    assert missing["workspace"]["next"] == "junctor workspaces create nowhere"
    upstream.always(Json(401, {"error": {"message": "bad key"}}))
    async with httpx.AsyncClient(base_url=cluster.url) as http:
        body = {"name": "locked", "host_url": upstream.url}
        assert (await http.post("/apis/models/v2/workspaces/default/providers", json=body)).is_success
    async with asyncio.timeout(60):
        while True:
            rows = {row["check"]: row for row in await sick(tmp_path, **here)}
            if "401" in rows["provider locked"]["found"]:
                break
    assert rows["provider locked"]["next"] == "junctor inference providers get locked"
    away = {row["check"]: row for row in await sick(tmp_path, **{**here, "JUNCTOR_GRPC_TARGET": "127.0.0.1:1"})}
    assert away["gRPC"]["next"] == "name its address with --grpc-target HOST:PORT"


async def test_a_config_file_that_others_can_read(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("")
    file.chmod(0o644)
    told = await sick(tmp_path, JUNCTOR_BASE_URL=cluster.url)
    assert told[0]["next"] == f"chmod 600 {file}"


async def test_a_token_that_cannot_be_sent(cluster: Cluster, tmp_path: Path) -> None:
    [told] = await sick(tmp_path, JUNCTOR_BASE_URL=cluster.url, JUNCTOR_ACCESS_TOKEN="ö")
    assert told["found"] == "the access token must be printable ASCII"
