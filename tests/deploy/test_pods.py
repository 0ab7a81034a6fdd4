"""The manifests' settings, mounts and probes as processes: without TLS as in `base`, with it as in `overlays/prod`."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from services.settings_table import GATEWAY
from tests.cluster import Access
from tests.deploy.manifests import KUBERNETES, Manifests
from tests.deploy.pods import EDGE_PORT, running
from tests.e2e import core
from tests.pki import Authority
from tests.postgres import Postgres
from tests.upstream import ScriptedUpstream

pytestmark = pytest.mark.compat


@pytest.mark.parametrize("folder", ["base", "overlays/prod"])
async def test_the_pods_become_ready_by_their_probes_and_serve(
    rendered: Callable[[Path], str], tmp_path: Path, postgres: Postgres, upstream: ScriptedUpstream, folder: str
) -> None:
    """Starts eight processes: nothing else shows that what the manifests say works."""
    manifests = Manifests.parse(rendered(KUBERNETES / folder))
    with postgres.database() as url:
        async with running(tmp_path, manifests, url, Authority()) as pods:
            scheme = "https" if folder.endswith("prod") else "http"
            base = f"{scheme}://127.0.0.1:{pods.port(GATEWAY, EDGE_PORT)}"
            ways = {"base_url": base, "verify": pods.authority, "trust_env": False, "timeout": 30}
            async with httpx.AsyncClient(**ways, headers=pods.admin) as http, httpx.AsyncClient(**ways) as stranger:
                await core.thread(Access(http, None), upstream)  # type: ignore[arg-type] # no check here is over gRPC
                body = {"model": "default/test-model", "messages": core.MESSAGES}
                answer = await http.post("/v1/chat/completions", json=body)
                assert answer.status_code == 200, answer.text
                assert (await stranger.post("/v1/chat/completions", json=body)).status_code == 401
                await pods.processes["access-control"].kill()
                assert (await http.post("/v1/chat/completions", json=body)).status_code == 200, "keys are known"
            ended = {name: process for name, process in pods.processes.items() if process.running()}
            for process in ended.values():
                process.send(signal.SIGTERM)
            for name, process in ended.items():
                assert await process.ended() == 0, name
                assert "Traceback" not in process.stderr, process.stderr
