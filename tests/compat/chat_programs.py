"""Runs the chat examples of Go and Python against five processes: ``python -m tests.compat.chat_programs GO FOLDER``.

The provider is silent for SILENCE seconds in the middle of a stream, long enough for both sides' keepalive to count,
and its embeddings are larger than one message of a client may be.
"""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path
from typing import Any

from grpc_health.v1 import health_pb2

from services.settings_table import GATEWAY, PORTS
from tests.e2e.core import thread
from tests.e2e.processes import deployment
from tests.upstream import Json, ScriptedUpstream, Sse

SILENCE = 45.0
PYTHON = Path(__file__).parents[2] / "examples" / "python" / "chat.py"
MODEL, EMBED = "default/test-model", "default/embed-1"


class Chat:
    """Answers at once; ``silent`` pauses in the middle, ``endless`` never ends."""

    async def play(self, request: Any, wire: Any) -> None:
        body = request.json()
        said = body["messages"][0]["content"]
        if not body.get("stream"):
            message = {"role": "assistant", "content": f"You said: {said}"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            answer = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            await Json(200, answer).play(request, wire)
            return
        pause = asyncio.Event()
        if said != "endless":
            asyncio.get_running_loop().call_later(SILENCE if said == "silent" else 0, pause.set)
        await Sse([_delta("before"), pause, _delta(" and after", "stop")]).play(request, wire)


class Embeddings:
    """As many numbers as were asked for."""

    async def play(self, request: Any, wire: Any) -> None:
        body = request.json()
        values = [0.5] * body["dimensions"]
        data = [{"object": "embedding", "index": n, "embedding": values} for n, _ in enumerate(body["input"])]
        await Json(200, {"object": "list", "data": data, "model": "e"}).play(request, wire)


def _delta(text: str, reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    return {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}


async def main(go: str, folder: str) -> None:
    """Run both at once; exits 1 if one fails or does not say what it should."""
    async with (
        deployment(Path(folder), *([name] for name in (*PORTS, GATEWAY))) as five,
        ScriptedUpstream() as upstream,
    ):
        await five.start(order=random.Random())
        await five.http_ready()
        for name in PORTS:
            await five.health_becomes(name, health_pb2.HealthCheckResponse.SERVING)
        async with five.access() as access:
            await thread(access, upstream)
        upstream.always(Chat(), path="/v1/chat/completions")
        upstream.always(Embeddings(), path="/v1/embeddings")
        target = f"127.0.0.1:{five.grpc_ports['inference-router']}"
        await asyncio.gather(
            _run("go", go, "-target", target, "-model", MODEL, "-embed-model", EMBED, "-say", "silent"),
            _run("python", sys.executable, str(PYTHON), target, MODEL, EMBED, "silent"),
        )


async def _run(language: str, *command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(240):
        out, _ = await process.communicate()
    lines = out.decode().splitlines()
    for line in lines:
        print(f"interop: {language} {line}")  # noqa: T201 - the record of what was checked
    steps = [line.partition(":")[0] for line in lines]
    silent = float(lines[-1].rpartition("silent for ")[2].removesuffix(" s")) if lines else 0
    if process.returncode or steps != ["chat", "cancel", "error", "embeddings", "stream"] or silent < SILENCE - 1:
        sys.exit(f"interop: the chat program in {language} failed")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
