"""docs/runbooks.md: its commands run as they are written, and every alert leads to a place in it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
import yaml

from tests.cluster import Cluster, running
from tests.ports import free_port
from tests.upstream import ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "runbooks.md").read_text()
ALERTS = ROOT / "deploy" / "alerts.yaml"
ANCHORS = (
    *("catalog-stale", "watch-lag", "all-providers-out", "truncated-streams", "error-share", "queue-wait"),
    *("drain-stuck", "database-unreachable", "key-expiring", "certificate-expiring"),
)


@dataclass(frozen=True)
class Block:
    """One block of commands, and the section that it is in."""

    section: str
    commands: str


def blocks() -> list[Block]:
    found = []
    for section in PAGE.split("\n## ")[1:]:
        title = section.partition("\n")[0]
        found += [Block(title, commands) for commands in re.findall(r"^```bash\n(.*?)^```$", section, re.M | re.S)]
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Cluster, Path]]:
    folder = tmp_path_factory.mktemp("runbooks")
    async with running(folder, admin_port=str(free_port())) as cluster, ScriptedUpstream() as upstream:
        secret = {"name": "up-key", "value": "sk-runbook-old"}
        await cluster.http.post("/apis/secrets/v2/workspaces/default/secrets", json=secret)
        await cluster.add_provider("up", upstream.url, api_key_secret_name="up-key")
        yield cluster, folder


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.section)
async def test_commands_run_as_written(place: tuple[Cluster, Path], block: Block) -> None:
    cluster, folder = place
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", block.commands),
        cwd=folder,
        env={
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "EDGE": cluster.url,
            "ADMIN": f"http://127.0.0.1:{cluster.node.settings.admin_port}",
            "TOKEN_FILE": str(cluster.node.settings.service_token_file),
            "JUNCTOR_SERVICE_TOKEN_FILE": str(cluster.node.settings.service_token_file),
            "JUNCTOR_GRPC_TARGET": f"127.0.0.1:{cluster.node.grpc_port}",
            "PROVIDER": "up",
            "SECRET": "up-key",
            "NEW_KEY": "sk-runbook-new",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert b"Traceback" not in out
    assert out, "a command that says nothing helps nobody"


@pytest.mark.parametrize("anchor", ANCHORS)
async def test_every_anchor_is_there_once(anchor: str) -> None:
    assert PAGE.count(f'<a id="{anchor}"></a>') == 1


async def test_every_alert_leads_to_a_runbook() -> None:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    urls = {rule["alert"]: rule["annotations"]["runbook_url"] for rule in rules if "alert" in rule}
    assert urls
    for alert, url in urls.items():
        page, _, anchor = url.partition("#")
        assert page.endswith("docs/runbooks.md"), alert
        assert f'<a id="{anchor}"></a>' in PAGE, alert


async def test_names_of_metrics_are_those_that_processes_have(place: tuple[Cluster, Path]) -> None:
    cluster, _ = place
    told = {family.name for family in cluster.node.families()}
    for found in re.findall(r"'\^junctor_(?:\(([a-z_|]+)\)|([a-z_]+))'", PAGE):
        for name in "".join(found).split("|"):
            bare = re.sub(r"_(?:count|sum|bucket)$", "", f"junctor_{name}")
            assert {bare, f"junctor_{name}"} & told or bare in _BY_CIRCUMSTANCE, name


_BY_CIRCUMSTANCE = {"junctor_tls_certificate_not_after_timestamp_seconds"}
"""Metrics that only some processes have."""
