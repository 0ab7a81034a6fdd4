"""Any bytes to the edge, split anywhere: each request has its own answer, or is refused; none hangs."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway_http.limits import Limits
from tests.gateway_http.edge import Edge, serving
from tests.security.test_any_message import _run

EXAMPLES = 150
SETTINGS = settings(
    max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
QUICK = Limits(head_seconds=0.3, body_seconds=0.3, linger_seconds=0.05, tick_seconds=0.05)
"""What does not come is refused soon, so that an input that is not complete ends."""
PATHS = ("/v1/chat/completions", "/v1/embeddings", "/none", "/apis/models/v2/workspaces/default/providers")
PIECES = st.sampled_from(
    (
        *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\0", b" ", b":", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"HTTP/1.1"),
        *(
            b"content-length: 5\r\n",
            b"content-length: -1\r\n",
            b"transfer-encoding: chunked\r\n",
            b"expect: 100-continue\r\n",
        ),
        *(
            b"0\r\n\r\n",
            b"ffffffffffffffff\r\n",
            b"5;x=y\r\n",
            b"host: y\r\n",
            b"\xff" * 9,
            b"x" * 5000,
            b"upgrade: h2c\r\n",
        ),
    )
)
STATUS = re.compile(rb"^HTTP/1\.1 (\d{3}) ", re.MULTILINE)
TAKEN = frozenset(b"100 200 400 404 405 408 411 413 414 417 422 431 501 505".split())


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[list[bytes], list[bytes], list[int]]:
    """Requests with a body of their own each, what has to be in each answer, and where to split."""
    requests, marks = [], []
    for number in range(draw(st.integers(1, 6))):
        path, mark = draw(st.sampled_from(PATHS)), b"mark-%d-%d" % (number, draw(st.integers(0, 10**9)))
        if draw(st.booleans()):
            framing = b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(mark), mark)
        else:
            framing = b"content-length: %d\r\n\r\n%b" % (len(mark), mark)
        requests.append(b"POST %b HTTP/1.1\r\nhost: edge\r\n%b" % (path.encode(), framing))
        marks.append(mark)
    most = sum(map(len, requests))
    return requests, marks, sorted(draw(st.lists(st.integers(1, most), max_size=12)))


@st.composite
def rubbish(draw: st.DrawFn) -> bytes:
    """A good request with pieces put in, cut out and changed."""
    data = bytearray(b"POST /v1/chat/completions HTTP/1.1\r\nhost: edge\r\ncontent-length: 5\r\n\r\nhello")
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(data)))
        way = draw(st.integers(0, 3))
        if way == 0:
            data[at:at] = draw(PIECES)
        elif way == 1:
            data[at:at] = draw(st.binary(max_size=20))
        elif way == 2:
            del data[at : at + draw(st.integers(0, 20))]
        elif data:
            data[at % len(data)] = draw(st.integers(0, 255))
    return bytes(data)


async def served(edge: Edge) -> None:
    async with edge.client() as other:
        other.send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await other.answer()).status == 200


async def test_each_request_of_a_pipeline_has_its_own_answer() -> None:
    async with serving() as edge:

        @SETTINGS
        @given(drawn=pipelines())
        async def asked(drawn: tuple[list[bytes], list[bytes], list[int]]) -> None:
            requests, marks, splits = drawn
            data = b"".join(requests)
            async with edge.client() as client:
                for start, end in zip([0, *splits], [*splits, len(data)], strict=True):
                    client.send(data[start:end])
                    await asyncio.sleep(0)
                for mark in marks:
                    answer = await client.answer()
                    assert answer.status == 200
                    assert answer.body.endswith(b" " + mark)

        await _run(asked)


async def test_rubbish_is_refused_and_nobody_else_notices(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(limits=QUICK, timeout_keep_alive=1) as edge:

        @SETTINGS
        @given(data=rubbish())
        async def asked(data: bytes) -> None:
            async with edge.client() as client:
                client.send(data)
                client.writer.write_eof()
                answer: Any = await client.rest()
            for status in STATUS.findall(answer):
                assert status in TAKEN, (status, data)

        await _run(asked)
        await served(edge)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
