"""``junctor up`` as a user starts it, and the real clients, each in an environment of its own."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.compat import environments
from tests.compat.environments import Unreachable
from tests.compat.place import Edge, Place
from tests.compat.worker import Worker, clean_environment, node_worker, python_worker
from tests.upstream import ScriptedUpstream

START_SECONDS = 60.0
_NOT_RUN = pytest.StashKey[dict[str, str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep a place for what could not run."""
    config.stash[_NOT_RUN] = {}


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say loudly what was not proven."""
    for name, why in config.stash[_NOT_RUN].items():
        terminalreporter.write_line(f"COMPATIBILITY NOT PROVEN: {name} was not run: {why}", red=True, bold=True)


@pytest.fixture(scope="session")
def environment(pytestconfig: pytest.Config) -> Callable[[str, Callable[[], Path]], Path]:
    """Make a client's environment, or skip loudly."""

    def make(name: str, build: Callable[[], Path]) -> Path:
        missing = pytestconfig.stash[_NOT_RUN]
        if name not in missing:
            try:
                return build()
            except Unreachable as error:
                missing[name] = str(error)
        pytest.skip(f"COMPATIBILITY NOT PROVEN: {name} was not run: {missing[name]}")

    return make


@pytest.fixture(scope="session")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """``junctor up`` on free ports, with nothing of the developer's own in it."""
    folder = tmp_path_factory.mktemp("up")
    screen = folder / "screen"
    command = [str(Path(sys.executable).with_name("junctor")), "up", "--port=0", "--grpc-port=0", "--no-detect"]
    with (
        screen.open("wb") as out,
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, stdout=out, stderr=log, env=clean_environment(folder), cwd=folder) as process,
    ):
        try:
            yield Edge(*_announced(process, screen, folder / "log"))
        finally:
            process.terminate()
            code = process.wait(START_SECONDS)
    assert code == 0, (folder / "log").read_text()[-4000:]


def _announced(process: subprocess.Popen[bytes], screen: Path, log: Path) -> tuple[str, str]:
    """Return base URL and gRPC target, once the screen has them."""
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        if found := re.search(r"is ready on (http://\S+)$.*^ +gRPC +(\S+)$", screen.read_text(), re.M | re.S):
            return found[1], found[2]
        time.sleep(0.02)
    raise AssertionError(f"junctor up did not get ready: {log.read_text()[-4000:]}")


@pytest_asyncio.fixture
async def place(edge: Edge, upstream: ScriptedUpstream) -> AsyncIterator[Place]:
    """A workspace of the test's own with a scripted provider that is ready."""
    name = f"w-{uuid.uuid4().hex[:10]}"
    workspaces = "/apis/entities/v2/workspaces"
    async with httpx.AsyncClient(base_url=edge.url, trust_env=False, timeout=60) as http:
        (await http.post(workspaces, json={"name": name})).raise_for_status()
        provider = {"name": "up", "host_url": upstream.url}
        (await http.post(f"/apis/models/v2/workspaces/{name}/providers", json=provider)).raise_for_status()
        async with asyncio.timeout(60):
            while (await http.get(f"{edge.gateway(name)}/provider/up/ready")).status_code != 200:
                await asyncio.sleep(0.02)
        yield Place(edge, name, upstream, http)
        (await http.delete(f"{workspaces}/{name}")).raise_for_status()


@pytest.fixture(scope="session")
def start(
    environment: Callable[[str, Callable[[], Path]], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str, str], Worker]]:
    """Start the process of a client module; the first argument says in which environment."""
    with ExitStack() as stack:

        def begin(where: str, module: str) -> Worker:
            home = tmp_path_factory.mktemp(module.partition(".")[0])
            if where == "node":
                packages = environment("the OpenAI Node SDK", environments.node_with_openai)
                return stack.enter_context(node_worker(packages, module, home))
            if where == "own":
                return stack.enter_context(python_worker(Path(sys.executable), module, home))
            python = environment(_NAMES[where], lambda: environments.python_with(where))
            return stack.enter_context(python_worker(python, module, home))

        yield begin


_NAMES = {"nemo": "nemo-platform", "vendors": "litellm, anthropic, openai 2"}
