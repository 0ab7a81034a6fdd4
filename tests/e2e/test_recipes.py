"""docs/providers.md: each recipe is run as written but for its host, and a call made by it arrives as the page says."""

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

from tests.cluster import Cluster, running
from tests.upstream import ScriptedUpstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE = (Path(__file__).parents[2] / "docs" / "providers.md").read_text()
KEY = "sk-recipe-1234"
GATEWAY = "/apis/inference-gateway/v2/workspaces/default/provider"
_HOST = re.compile(r"(?<=--host-url )https?://[^/\s]+")


@dataclass(frozen=True)
class Recipe:
    """One section: its commands, and how a call arrives; empty: none is made."""

    title: str
    commands: str
    arrives: tuple[str, ...]


def recipes() -> list[Recipe]:
    found = []
    for section in PAGE.split("\n## ")[1:]:
        [commands] = re.findall(r"^```bash\n(.*?)^```$", section, re.M | re.S)
        arrives = re.findall(r"^```text\n(.*?)^```$", section, re.M | re.S)
        found.append(Recipe(section.partition("\n")[0], commands, tuple("".join(arrives).splitlines())))
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Cluster, ScriptedUpstream, Path]]:
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "client.pem").write_text("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n")
    async with running(folder) as cluster, ScriptedUpstream() as upstream:
        yield cluster, upstream, folder


@pytest.mark.parametrize("recipe", recipes(), ids=lambda recipe: recipe.title)
async def test_a_recipe_works(place: tuple[Cluster, ScriptedUpstream, Path], recipe: Recipe) -> None:
    cluster, upstream, folder = place
    commands = _HOST.sub(upstream.url, recipe.commands) if recipe.arrives else recipe.commands
    keys = dict.fromkeys(re.findall(r"\$(\w+_KEY)", commands), KEY)
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", commands),
        cwd=folder,
        env={
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "JUNCTOR_BASE_URL": cluster.url,
            **keys,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert KEY.encode() not in out
    if recipe.arrives:
        [name] = re.findall(r"providers create (\S+)", commands)
        await calls_arrive(cluster, upstream, name, recipe.arrives)


async def calls_arrive(cluster: Cluster, upstream: ScriptedUpstream, name: str, arrives: tuple[str, ...]) -> None:
    """Call the provider as a client would, and look at what it got."""
    line, *fields = arrives
    method, target = line.split()
    asked = "v1/messages" if target.endswith("/messages") else "v1/chat/completions"
    seen = len(upstream.requests)
    await cluster.http.request(method, f"{GATEWAY}/{name}/-/{asked}", json={"model": "m", "messages": []})
    [request] = [each for each in upstream.requests[seen:] if each.method == "POST"]
    assert (request.method, request.target) == (method, target)
    for field in fields:
        key, _, value = field.partition(": ")
        assert request.header(key) == value.replace("KEY", KEY)
    if not any("KEY" in field for field in fields):
        assert KEY not in str(request.headers)
