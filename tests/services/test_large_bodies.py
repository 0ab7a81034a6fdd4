"""Large request bodies: reading and rewriting them lets the event loop go on; small ones take no thread."""

from __future__ import annotations

import asyncio
import json

import pytest

from junctor.errors import MalformedRequest
from services.inference_router.attempts import LARGE
from services.runtime.exchange import Route
from tests.router_bench import Recorder, benches, by_model, by_provider
from tests.upstream import Json, ScriptedUpstream

SIZES = pytest.mark.parametrize(("size", "goes_on"), [(LARGE - 100, False), (LARGE + 1, True)], ids=["small", "large"])


@SIZES
async def test_others_have_their_turn_while_a_large_body_is_read(size: int, goes_on: bool) -> None:
    turns: list[int] = []
    async with benches() as bench:
        call = by_model()
        call.route, call.body = Route.OPENAI, b'{"a":"%b"' % (b"x" * size)
        asyncio.get_running_loop().call_soon(turns.append, 1)
        with pytest.raises(MalformedRequest):
            await bench.router.invoke(call, Recorder())
    assert bool(turns) is goes_on


@pytest.mark.parametrize("pinned", [False, True], ids=["by model", "by provider"])
async def test_a_large_body_arrives_with_what_the_provider_adds(upstream: ScriptedUpstream, pinned: bool) -> None:
    upstream.always(Json(200, {"model": "vendor/m"}))
    async with benches() as bench:
        bench.provider("p0", upstream.url, required_extra_body=b'{"user":"u"}')
        bench.model()
        text = "é" * LARGE
        call = by_provider() if pinned else by_model()
        call.body = json.dumps({"model": "chat", "text": text}).encode()
        sink = Recorder()
        await bench.router.invoke(call, sink)
    model = "chat" if pinned else "vendor/m"
    assert upstream.requests[0].json() == {"model": model, "text": text, "user": "u"}
