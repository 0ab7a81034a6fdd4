"""deploy/compose.yaml: its very commands, settings and health checks, as processes on a real PostgreSQL."""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import yaml

from services.settings_table import GATEWAY, PORTS, SETTINGS
from tests.cluster import Access
from tests.deploy.containers import EDGE_PORT, Containers, containers
from tests.deploy.image import DEPLOY, compose, image
from tests.e2e import core
from tests.postgres import Postgres
from tests.upstream import ScriptedUpstream

EVERY = (*PORTS, GATEWAY)
VARIABLES = {"JUNCTOR_UID": "1234", "JUNCTOR_GID": "1234"}
OURS = [name for name, one in compose(VARIABLES)["services"].items() if "build" in one]
THEIRS = [name for name, one in compose(VARIABLES)["services"].items() if "build" not in one]


@pytest_asyncio.fixture
async def stack(tmp_path: Path, postgres: Postgres) -> AsyncIterator[Containers]:
    with postgres.database() as url:
        async with containers(tmp_path, url) as made:
            yield made


async def test_the_containers_become_healthy_and_a_request_goes_through(
    stack: Containers, upstream: ScriptedUpstream
) -> None:
    order = list(EVERY)
    random.Random(4).shuffle(order)
    for name in order:
        await stack.start(name)
    for name in EVERY:
        await stack.becomes_healthy(name)

    url = f"http://127.0.0.1:{stack.port(GATEWAY, EDGE_PORT)}"
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60, headers=stack.admin) as http:
        ready = await core.thread(Access(http, None), upstream)  # type: ignore[arg-type] # no check here is over gRPC
        async with ready.openai() as keyless:
            client = keyless.with_options(api_key=stack.admin["authorization"].removeprefix("Bearer "))
            answer = await client.chat.completions.create(model=ready.entity, messages=core.MESSAGES)
        assert answer.choices[0].message.content
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as stranger:
        assert (await stranger.get("/v1/models")).status_code == 401

    stack.processes["inference-router"].send(signal.SIGTERM)
    assert await stack.processes["inference-router"].ended() == 0
    assert not await stack.healthy("inference-router")
    for name in EVERY:
        assert "Traceback" not in stack.processes[name].stderr


async def test_a_server_without_the_migration_is_not_healthy(stack: Containers) -> None:
    await stack.processes["model-registry"].start()

    assert await stack.processes["model-registry"].ended() == 1
    assert "migrate" in stack.processes["model-registry"].stderr
    assert not await stack.healthy("model-registry")


def test_there_is_a_container_for_each_service_and_for_what_watches_them() -> None:
    assert set(OURS) == {*EVERY, "migrate"}
    assert set(THEIRS) == {"postgres", "prometheus", "grafana", "otel-collector"}
    for name in EVERY:
        assert compose(VARIABLES)["services"][name]["command"] == [name]


@pytest.mark.parametrize("name", OURS)
def test_a_container_has_no_right_that_it_does_not_need(name: str) -> None:
    service = compose(VARIABLES)["services"][name]

    assert service["user"] == "1234:1234"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service


@pytest.mark.parametrize("name", [name for name in OURS if name != "migrate"])
def test_a_container_is_stopped_no_sooner_than_its_drain_allows(name: str) -> None:
    service = compose(VARIABLES)["services"][name]

    drain = float(service["environment"]["JUNCTOR_DRAIN_TIMEOUT"])
    assert float(service["stop_grace_period"].removesuffix("s")) >= drain + 10


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting_and_no_secret_is_among_them(name: str) -> None:
    environment = {**image().env, **compose(VARIABLES)["services"][name]["environment"]}
    known = {row.env for row in SETTINGS} | {"JUNCTOR_CONFIG"}

    assert {key for key in environment if key.startswith("JUNCTOR_")} <= known
    assert not re.search(r"://[^/\s]*:[^/\s]*@", str(environment))


def test_every_published_port_is_of_this_machine_alone() -> None:
    for name, service in compose(VARIABLES)["services"].items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name


def test_what_takes_the_calls_can_be_scaled() -> None:
    router = compose(VARIABLES)["services"]["inference-router"]

    (port,) = router["ports"]
    first, last = map(int, port.split(":")[1].split("-"))
    assert last > first, "a port of this machine for each replica"
    assert all(":" not in volume for volume in router["volumes"]), "no volume is shared"
    assert "container_name" not in router


def test_every_secret_is_a_file_that_the_script_makes(tmp_path: Path) -> None:
    def run() -> dict[str, bytes]:
        command = ["bash", DEPLOY / "secrets.sh", tmp_path / "made"]
        subprocess.run(command, check=True, capture_output=True)
        return {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}

    first = run()
    assert run() == first, "a second run keeps what is there"
    assert {secret["file"].rpartition("/")[2] for secret in compose({})["secrets"].values()} == set(first)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "made").iterdir()} == {0o600}
    used = [name for service in compose({})["services"].values() for name in service.get("secrets", [])]
    assert set(used) == set(first)


def test_every_file_that_is_mounted_is_there() -> None:
    for name, service in compose(VARIABLES)["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("/"):
                assert source == volume, "a volume of the container's own"
            elif source.startswith("."):
                assert (DEPLOY / source).exists(), f"{name}: {source}"
            else:
                assert source in compose(VARIABLES)["volumes"], f"{name}: {source}"


def test_prometheus_asks_every_service_at_the_port_for_operators() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())
    found = {job["job_name"]: job for job in config["scrape_configs"]}["junctor"]["dns_sd_configs"][0]

    assert set(found["names"]) == set(EVERY)
    assert str(found["port"]) == image().env["JUNCTOR_ADMIN_PORT"]
    for rules in config["rule_files"]:
        assert (DEPLOY / rules).exists()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="PROMETHEUS' SETTINGS NOT JUDGED: promtool is not here")
def test_prometheus_takes_its_settings() -> None:
    command = ["promtool", "check", "config", DEPLOY / "prometheus.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr


def test_every_part_of_the_collectors_pipelines_is_defined() -> None:
    config = yaml.safe_load((DEPLOY / "otel-collector.yaml").read_text())

    assert set(config["service"]["extensions"]) <= set(config["extensions"])
    for pipeline in config["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert pipeline[kind]
            assert set(pipeline[kind]) <= set(config[kind])
