"""However the bytes are cut or damaged: the same answers, or a refusal; never an exception, never a hang."""

from __future__ import annotations

import asyncio
import random
import re
from typing import Any

import pytest

from tests.gateway_http.edge import post, serving

CHUNKED = (
    b"POST %b HTTP/1.1\r\nhost: e\r\ntransfer-encoding: chunked\r\n\r\n"
    b"5;x=y\r\nhello\r\nA\r\n0123456789\r\n0\r\nx: y\r\n\r\n"
)
STREAM = b"".join(
    (
        post("/v1/completions", b"one", "x-a: b"),
        post("/app", b"two"),
        CHUNKED % b"/v1/embeddings",
        CHUNKED % b"/app",
        b"OPTIONS /v1/messages HTTP/1.1\r\nhost: e\r\n\r\n",
        post("/v1/responses", b"x" * 3000),
        b"GET /last HTTP/1.1\r\nhost: e\r\nconnection: close\r\n\r\n",
    )
)
BODIES = [
    b"POST v1/completions? one",
    b"app /app two",
    b"POST v1/embeddings? hello0123456789",
    b"app /app hello0123456789",
    b"Method Not Allowed",
    b"POST v1/responses? xxx",
    b"app /last ",
]


@pytest.mark.parametrize("seed", range(25))
async def test_answers_do_not_depend_on_how_the_stream_is_cut(seed: int) -> None:
    dice = random.Random(seed)
    async with serving() as edge, edge.client() as client:
        position = 0
        while position < len(STREAM):
            size = dice.choice((1, 2, 3, 7, 60, 500, 3000))
            client.send(STREAM[position : position + size])
            position += size
            await asyncio.sleep(0)
        got = await client.rest()
    assert re.findall(rb"HTTP/1\.1 (\d+)", got) == [b"200"] * 4 + [b"405"] + [b"200"] * 2
    places = [got.index(body) for body in BODIES]
    assert places == sorted(places)


@pytest.mark.parametrize("seed", range(25))
async def test_damaged_stream_is_answered_or_refused_but_never_an_exception(seed: int) -> None:
    dice = random.Random(seed)
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    async with serving() as edge:
        for _ in range(10):
            raw = bytearray(STREAM)
            for _ in range(dice.randint(1, 8)):
                place = dice.randrange(len(raw) - 3100)
                raw[place : place + dice.randint(0, 2)] = bytes(
                    dice.choice(b"\0\r\n :;,\x7f\xff/#%0a") for _ in range(dice.randint(0, 2))
                )
            async with edge.client() as client:
                client.send(bytes(raw))
                client.writer.write_eof()
                got = await client.rest()
            statuses = set(re.findall(rb"HTTP/1\.1 (\d+)", got))
            assert statuses <= {b"200", b"400", b"404", b"405", b"408", b"413", b"422", b"431", b"505"}
    assert not seen
