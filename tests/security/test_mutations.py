"""Good requests with some of their bytes changed, by seed: none is INTERNAL or UNKNOWN, and the server lives."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, Phase, given, settings

from junctor.channel import open_channel
from junctor.v1 import workspaces_pb2 as pb
from junctor.v1.workspaces_pb2_grpc import WorkspacesStub
from services.runtime.auth import token_metadata
from tests.cluster import Cluster, running
from tests.http2 import DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, Raw, call_headers, frame, message
from tests.security.contract import Rpc, messages, rpcs

pytestmark = pytest.mark.asyncio(loop_scope="module")

SEED = 20_261_123
OF_EACH_RPC = 60
OF_CONNECTIONS = 400
RPCS = list(rpcs())
NEVER = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with running(tmp_path_factory.mktemp("mutated")) as made:
        yield made


def good_requests(rpc: Rpc) -> list[bytes]:
    """Some messages of the RPC's type, the same each time."""
    found: list[bytes] = []
    plain = (
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
        HealthCheck.large_base_example,
    )

    @settings(max_examples=12, derandomize=True, database=None, phases=[Phase.generate], suppress_health_check=plain)
    @given(drawn=messages(rpc.request))
    def draw(drawn: object) -> None:
        found.append(drawn.SerializeToString())  # type: ignore[attr-defined]

    draw()
    return found


def mutated(data: bytes, dice: random.Random) -> bytes:
    """Change some bytes: flipped, cut, doubled, made a long varint, followed by others."""
    out = bytearray(data or b"\x0a\x07default")
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(out) + 1)
        way = dice.randrange(7)
        if way == 0 and out:
            out[at % len(out)] ^= 1 << dice.randrange(8)
        elif way == 1:
            del out[at:]
        elif way == 2:
            out[at:at] = dice.randbytes(dice.randint(1, 9))
        elif way == 3:
            out[at:at] = out[: dice.randint(0, len(out))]
        elif way == 4:
            out[at:at] = b"\xff" * dice.randint(1, 11) + b"\x01"
        elif way == 5:
            out[at:at] = bytes([dice.randrange(256) & 0xF8 | 2, *b"\xff\xff\xff\xff\x07"])
        elif out:
            out[at % len(out)] = dice.choice(b"\x00\x7f\x80\xff\x0b\x0c")
    return bytes(out)


def of(rpc: Rpc) -> Iterator[bytes]:
    dice = random.Random(f"{SEED} {rpc.path}")
    good = good_requests(rpc)
    for _ in range(OF_EACH_RPC):
        yield mutated(dice.choice(good), dice)


def identity(data: bytes) -> bytes:
    return data


async def status_of(cluster: Cluster, rpc: Rpc, data: bytes, metadata: tuple[tuple[str, str], ...]) -> grpc.StatusCode:
    """Make the call with these bytes for its message, all of the client's if it streams; return how it ended."""
    make = {
        (False, False): cluster.channel.unary_unary,
        (False, True): cluster.channel.unary_stream,
        (True, False): cluster.channel.stream_unary,
        (True, True): cluster.channel.stream_stream,
    }[rpc.streams]
    call = make(rpc.path, request_serializer=identity, response_deserializer=identity)

    async def sent() -> AsyncIterator[bytes]:
        yield data
        yield data

    waits = 0.05 if rpc.streams[1] else 20  # a Watch has no end of its own
    made = call(sent() if rpc.streams[0] else data, metadata=metadata, timeout=waits)
    try:
        if rpc.streams[1]:
            async for _ in made:
                break
            made.cancel()
            return grpc.StatusCode.OK
        await made
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("rpc", RPCS, ids=str)
async def test_a_changed_message_is_a_good_one_or_refused(
    cluster: Cluster, rpc: Rpc, caplog: pytest.LogCaptureFixture
) -> None:
    token = cluster.node._token
    metadata = tuple(token_metadata(token)) if token is not None else ()
    for number, data in enumerate(of(rpc)):
        code = await status_of(cluster, rpc, data, metadata)
        assert code not in NEVER, (number, data)
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def whole_call() -> bytes:
    """A call from the preface to its end, as it goes over the wire."""
    block = call_headers("/junctor.v1.Workspaces/GetWorkspace")
    request = message(pb.GetWorkspaceRequest(name="default").SerializeToString())
    return (
        PREFACE
        + frame(SETTINGS, 0, 0)
        + frame(HEADERS, END_HEADERS, 1, block)
        + frame(DATA, END_STREAM, 1, request)
        + frame(HEADERS, END_HEADERS, 3, block)
        + frame(DATA, 0, 3, request)
    )


async def test_a_changed_connection_harms_nobody_else(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    dice = random.Random(SEED)
    good = whole_call()
    async with open_channel(f"127.0.0.1:{cluster.node.grpc_port}") as channel:
        stub = WorkspacesStub(channel)
        for number in range(OF_CONNECTIONS):
            keep = dice.choice((0, len(PREFACE), len(PREFACE) + 9))
            raw = await Raw.open(cluster.node.grpc_port)
            await raw.pour(good[:keep] + mutated(good[keep:], dice))
            if number % 20 == 0:
                assert (await stub.GetWorkspace(pb.GetWorkspaceRequest(name="default"), timeout=60)).name == "default"
            raw.abort()
            await raw.close()
    assert not [record.getMessage() for record in caplog.records if _is_error(record)]


async def test_a_method_whose_name_is_no_text_does_not_end_the_server(cluster: Cluster) -> None:
    """grpcio alone ends its server for one such call."""
    async with open_channel(f"127.0.0.1:{cluster.node.grpc_port}") as channel:
        for name in (b"/\xff", b"/junctor.v1.Workspaces/Get\xc3\x28", b"\xff" * 100, b"", b"/", b"\0"):
            raw = await Raw.connect(cluster.node.grpc_port)
            block = b"\x83\x86\x04" + bytes([len(name)]) + name + call_headers("/x")[6:]
            raw.send(HEADERS, END_HEADERS, 1, block)
            raw.send(DATA, END_STREAM, 1, message(b""))
            await raw.drain()
            found = await WorkspacesStub(channel).GetWorkspace(pb.GetWorkspaceRequest(name="default"), timeout=60)
            assert found.name == "default"
            raw.abort()
            await raw.close()


def _is_error(record: logging.LogRecord) -> bool:
    """Tell whether a process would write it: ``services.runtime.telemetry`` drops one kind."""
    return record.levelno >= logging.ERROR and not str(record.msg).startswith("Invalid encoding")
