"""The examples run as they are, each as a process of its own, against a junctor with the demo provider."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.demo.server import start
from tests.cluster import Cluster

EXAMPLES = Path(__file__).parents[2] / "examples" / "python"


@pytest_asyncio.fixture
async def target(cluster: Cluster) -> AsyncIterator[str]:
    """The gRPC port of a junctor that routes the demo's models."""
    demo = await start(pace=0)
    await cluster.add_provider("demo", demo.url)
    yield f"127.0.0.1:{cluster.node.grpc_port}"
    await demo.stop()


async def run(script: str, *arguments: str) -> str:
    """Run an example to its end and return what it printed; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        EXAMPLES / script,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, complaints = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, complaints.decode()
    return out.decode()


async def test_stream_prints_the_answer_and_its_verdict(target: str) -> None:
    lines = (await run("stream.py", target)).splitlines()
    assert lines[0] == "[default/demo]"
    assert lines[1] == "You said: Hello from Python"
    assert lines[-1] == "[VERDICT_COMPLETE]"


async def test_error_details_show_reason_and_fields(target: str) -> None:
    shown = await run("error_details.py", target)
    assert "NOT_FOUND: " in shown
    assert "reason NO_ROUTE, domain junctor" in shown
    assert "INVALID_ARGUMENT: " in shown
    assert "reason INVALID_FIELD, domain junctor" in shown
    assert "field model.name: " in shown or "field name: " in shown


async def test_watch_begins_with_what_there_is(target: str) -> None:
    lines = (await run("watch.py", target, "3")).splitlines()
    assert sorted(line.split()[1] for line in lines[:2]) == ["default/demo-echo-1", "default/demo-embed-1"]
    assert lines[2].startswith("SYNCED")


async def test_chat_makes_every_kind_of_call(target: str) -> None:
    lines = (await run("chat.py", target)).splitlines()
    assert lines[0].startswith("chat: 'You said: Hello from Python")
    assert lines[1] == "cancel: stopped"
    assert lines[2] == "error: NOT_FOUND, reason NO_ROUTE, domain junctor, pushback None"
    assert lines[3] == "embeddings: 320 of 5242880 bytes"
    assert "VERDICT_COMPLETE" in lines[4]


def test_every_example_is_run_here() -> None:
    here = Path(__file__).read_text()
    missing = [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in here]
    assert not missing


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.py")))
async def test_an_example_fails_aloud_where_nothing_listens(script: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, EXAMPLES / script, "127.0.0.1:9", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, complaints = await asyncio.wait_for(process.communicate(), 60)
    assert b"UNAVAILABLE" in out + complaints
