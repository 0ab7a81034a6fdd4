"""The seeded provider in a real process, started as users start it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.settings_table import GATEWAY, PORTS
from tests.cluster import until
from tests.e2e.processes import PATIENCE, free_port, process, status_is

PROVIDER = "/apis/models/v2/workspaces/system/providers/nvidia-build"
SECRET = "/apis/secrets/v2/workspaces/system/secrets/nvidia-api-key"
KEY = "nvapi-of-the-environment"
QUIET = {"JUNCTOR_UPSTREAM_NETWORKS": "loopback", "JUNCTOR_DISCOVERY_INTERVAL": "1"}
"""Nobody outside is asked: the seed's vendor is in no network of these."""


@asynccontextmanager
async def started(folder: Path, **environ: str) -> AsyncIterator[httpx.AsyncClient]:
    port, grpc = free_port(), free_port()
    flags = ("--port", str(port), "--grpc-port", str(grpc), "--data-dir", "data")
    script = process("junctord", *PORTS, GATEWAY, *flags, folder=folder, **QUIET, **environ)
    client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60)
    async with script, client as http:
        await until(lambda: status_is(http, "/health/ready", 200), seconds=PATIENCE)
        yield http


async def provider(http: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await http.get(PROVIDER)).json()
    return found


async def test_without_a_key_it_says_so_is_not_discovered_and_not_made_twice(tmp_path: Path) -> None:
    async with started(tmp_path) as http:
        first = await provider(http)
        planned = first["next_attempt"]
        later: dict[str, Any] = {}

        async def looked_at_again() -> bool:
            later.update(await provider(http))
            return later["next_attempt"] > planned

        await until(looked_at_again, seconds=PATIENCE)
        assert later == first | {"next_attempt": later["next_attempt"]}
        assert (first["host_url"], first["api_key_secret_name"]) == (
            "https://integrate.api.nvidia.com",
            "nvidia-api-key",
        )
        assert (first["status"], first["last_attempt"], first["served_models"]) == ("PENDING", None, [])
        assert "junctor secrets create nvidia-api-key --workspace system --from-file -" in first["status_message"]
        ready = await http.get("/apis/inference-gateway/v2/workspaces/system/provider/nvidia-build/ready")
        assert (ready.status_code, ready.json()["detail"]) == (404, "Provider not ready for system/nvidia-build")
        assert (await http.get(SECRET)).status_code == 404
    async with started(tmp_path) as http:
        assert (await provider(http))["id"] == first["id"]
        assert (await http.delete(PROVIDER)).status_code == 204
    async with started(tmp_path, NVIDIA_API_KEY=KEY) as http:
        assert (await http.get(PROVIDER)).status_code == 404
        assert (await http.get(SECRET)).status_code == 404


async def test_with_a_key_in_the_environment_it_becomes_the_secret_and_is_shown_nowhere(tmp_path: Path) -> None:
    async with started(tmp_path, NVIDIA_API_KEY=KEY) as http:
        secret = await http.get(SECRET)
        assert secret.status_code == 200

        async def tried() -> bool:
            return (await provider(http))["last_attempt"] is not None

        await until(tried, seconds=PATIENCE)
        shown = secret.text + (await http.get(PROVIDER)).text
    logs = "".join((tmp_path / name).read_text() for name in ("stdout", "stderr"))
    assert KEY not in shown + logs
    assert not any(KEY.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


@pytest.mark.parametrize("key", [{}, {"NVIDIA_API_KEY": KEY}], ids=["without a key", "with a key"])
async def test_switched_off_there_is_none(tmp_path: Path, key: dict[str, str]) -> None:
    async with started(tmp_path, JUNCTOR_SEED="false", **key) as http:
        assert (await http.get(PROVIDER)).status_code == 404
        assert (await http.get(SECRET)).status_code == 404
