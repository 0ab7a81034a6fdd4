"""Floods of HTTP/2 frames on a gRPC port: others go on being served, and memory stays bounded.

Each row is a flood; four attackers send it at once, again and again, each time as far as the server takes it. It is not
promised that they are cut, nor how fast anything is, but that a client that behaves has its calls answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio

from tests.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Raw,
    call_headers,
    frame,
    message,
    setting,
)
from tests.security.attack import MIB, Target, Witness, target

pytestmark = pytest.mark.asyncio(loop_scope="module")

ATTACKERS = (True, True, False, False)
"""Whether each reads what the server answers: what is not read has to be kept, or refused."""
SERVED = 2
"""Calls of the well-behaved client during which a flood comes again and again."""
GROWTH = 160 * MIB
"""Memory that a flood may cost the process, of which the allocators keep some."""

HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 4, 5
CALL = call_headers("/junctor.v1.Workspaces/GetWorkspace")
LIST = call_headers("/junctor.v1.Workspaces/WatchWorkspaces")
CANCEL = (8).to_bytes(4, "big")
STREAMS = range(1, 20_000, 2)
_log = logging.getLogger(__name__)


def opened(stream: int, *, block: bytes = CALL) -> bytes:
    return frame(HEADERS, END_HEADERS, stream, block)


def rapid_reset() -> Iterator[bytes]:
    for stream in STREAMS:
        yield opened(stream) + frame(RST_STREAM, 0, stream, CANCEL)


def made_you_reset() -> Iterator[bytes]:
    """The server resets, for a window update of nothing (CVE-2025-8671)."""
    for stream in STREAMS:
        yield opened(stream) + frame(WINDOW_UPDATE, 0, stream, bytes(4))


def reset_after_the_call() -> Iterator[bytes]:
    whole = message(b"\x0a\x07default")
    for stream in STREAMS:
        yield opened(stream) + frame(DATA, END_STREAM, stream, whole) + frame(RST_STREAM, 0, stream, CANCEL)


def open_calls() -> Iterator[bytes]:
    for stream in STREAMS:
        yield opened(stream)


def watches_nobody_reads() -> Iterator[bytes]:
    yield frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, 0))
    for stream in range(1, 4000, 2):
        yield opened(stream, block=LIST) + frame(DATA, END_STREAM, stream, message(b""))


def continuation() -> Iterator[bytes]:
    yield frame(HEADERS, 0, 1, CALL)
    field = b"\x00\x05x-pad\x7f\xf1\x7c" + bytes(16_000)  # a literal field of 16,000 octets
    for _ in range(4000):
        yield frame(CONTINUATION, 0, 1, field[:16_000])


def small_continuation() -> Iterator[bytes]:
    yield frame(HEADERS, 0, 1, CALL)
    for _ in range(200):
        yield frame(CONTINUATION, 0, 1, b"\x00\x01x\x01y") * 1000


def empty_continuation() -> Iterator[bytes]:
    yield frame(HEADERS, 0, 1, CALL)
    for _ in range(200):
        yield frame(CONTINUATION, 0, 1) * 1000


def settings() -> Iterator[bytes]:
    for _ in range(200):
        yield frame(SETTINGS, 0, 0) * 1000


def long_settings() -> Iterator[bytes]:
    long = b"".join(setting(INITIAL_WINDOW_SIZE, size) for size in range(2700))
    for _ in range(2000):
        yield frame(SETTINGS, 0, 0, long)


def unknown_settings() -> Iterator[bytes]:
    long = b"".join(setting(identifier, 1) for identifier in range(0x100, 0x100 + 2700))
    for _ in range(2000):
        yield frame(SETTINGS, 0, 0, long)


def pings() -> Iterator[bytes]:
    for _ in range(200):
        yield frame(PING, 0, 0, bytes(8)) * 1000


def ping_answers() -> Iterator[bytes]:
    for _ in range(200):
        yield frame(PING, 1, 0, bytes(8)) * 1000


def empty_data() -> Iterator[bytes]:
    yield opened(1)
    for _ in range(200):
        yield frame(DATA, 0, 1) * 1000


def padded_data() -> Iterator[bytes]:
    """DATA of nothing but padding, which counts against windows and means nothing."""
    yield opened(1)
    for _ in range(2000):
        yield frame(DATA, 0x8, 1, bytes([255]) + bytes(255)) * 50


def dribbled_message() -> Iterator[bytes]:
    """A message of 4 MiB, byte by byte."""
    yield opened(1) + frame(DATA, 0, 1, b"\0" + (4 * MIB).to_bytes(4, "big"))
    for _ in range(100):
        yield frame(DATA, 0, 1, b"x") * 1000


def hpack_bomb() -> Iterator[bytes]:
    """One field of 3,900 octets in the table, then 16,000 references of one octet each to it."""
    entry = b"\x40\x05x-big" + b"\x7f" + _integer(3900 - 127) + b"a" * 3900
    yield frame(HEADERS, END_HEADERS, 1, CALL + entry)
    for stream in range(3, 400, 2):
        yield frame(HEADERS, END_HEADERS, stream, CALL + b"\xbe" * 16_000)


def hpack_tables() -> Iterator[bytes]:
    """The client offers a table of 4 GiB for answers, and asks for a large one of its own for requests."""
    yield frame(SETTINGS, 0, 0, setting(HEADER_TABLE_SIZE, 0xFFFF_FFFF))
    for stream in range(1, 400, 2):
        yield frame(HEADERS, END_HEADERS, stream, b"\x3f" + _integer((1 << 28) - 31) + CALL)


def hpack_evictions() -> Iterator[bytes]:
    for stream in range(1, 4000, 2):
        fields = b"".join(b"\x40\x06" + b"%06d" % (stream * 40 + n) + b"\x01v" for n in range(40))
        yield frame(HEADERS, END_HEADERS, stream, CALL + fields) + frame(RST_STREAM, 0, stream, CANCEL)


def window_overflow() -> Iterator[bytes]:
    most = (0x7FFF_FFFF).to_bytes(4, "big")
    for stream in range(1, 4000, 2):
        yield opened(stream) + frame(WINDOW_UPDATE, 0, stream, most) * 4
    yield frame(WINDOW_UPDATE, 0, 0, most) * 4


def window_see_saw() -> Iterator[bytes]:
    """The initial window goes up and down under open streams: each change touches every one of them."""
    for stream in range(1, 2000, 2):
        yield opened(stream, block=LIST)
    wide, none = setting(INITIAL_WINDOW_SIZE, 0x7FFF_FFFF), setting(INITIAL_WINDOW_SIZE, 0)
    for _ in range(2000):
        yield frame(SETTINGS, 0, 0, wide) + frame(SETTINGS, 0, 0, none)


def window_crumbs() -> Iterator[bytes]:
    yield opened(1)
    for _ in range(200):
        yield frame(WINDOW_UPDATE, 0, 1, (1).to_bytes(4, "big")) * 1000


def priorities() -> Iterator[bytes]:
    for first in range(1, 400_000, 2000):
        yield b"".join(frame(PRIORITY, 0, stream, bytes(5)) for stream in range(first, first + 2000, 2))


def resets_of_nothing() -> Iterator[bytes]:
    yield opened(1)
    for _ in range(200):
        yield frame(RST_STREAM, 0, 1, CANCEL) * 1000


def goaways() -> Iterator[bytes]:
    for _ in range(200):
        yield frame(GOAWAY, 0, 0, bytes(8)) * 500


def unknown_frames() -> Iterator[bytes]:
    for _ in range(2000):
        yield frame(0xEE, 0xFF, 0, bytes(16_000))


def pushes() -> Iterator[bytes]:
    for _ in range(200):
        yield frame(PUSH_PROMISE, END_HEADERS, 1, (2).to_bytes(4, "big") + CALL) * 100


def long_names() -> Iterator[bytes]:
    """Fields of 60 KiB in each of many calls."""
    field = b"\x00\x05x-pad\x7f" + _integer(15_000 - 127) + b"a" * 15_000
    for stream in range(1, 2000, 2):
        yield opened(stream, block=CALL + field)


def _integer(value: int) -> bytes:
    """Write what is left of an HPACK integer behind its full prefix (RFC 7541, 5.1)."""
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


FLOODS: dict[str, Callable[[], Iterator[bytes]]] = {
    made.__name__.replace("_", " "): made
    for made in (
        *(rapid_reset, made_you_reset, reset_after_the_call, open_calls, watches_nobody_reads),
        *(continuation, small_continuation, empty_continuation),
        *(settings, long_settings, unknown_settings, pings, ping_answers),
        *(empty_data, padded_data, dribbled_message),
        *(hpack_bomb, hpack_tables, hpack_evictions, long_names),
        *(window_overflow, window_see_saw, window_crumbs),
        *(priorities, resets_of_nothing, goaways, unknown_frames, pushes),
    )
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def attacked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    async with target(tmp_path_factory.mktemp("attacked")) as made:
        yield made


async def attack(port: int, flood: Iterator[bytes], *, reads: bool) -> int:
    """Send a flood as far as the server takes it; return the bytes."""
    raw = await Raw.connect(port)
    reader = asyncio.create_task(raw.drop()) if reads else None
    sent = 0
    try:
        for piece in flood:
            if not await raw.pour(piece):
                break
            sent += len(piece)
        return sent
    finally:
        raw.abort()
        if reader is not None:
            await reader
        await raw.close()


KNOWN = {
    "rapid reset",
    "made you reset",
    "continuation",
    "settings",
    "pings",
    "empty data",
    "hpack bomb",
    "window crumbs",
}
"""Floods that others have had advisories for; the rest takes its time."""


@pytest.mark.parametrize(
    "flood",
    [pytest.param(flood, id=name, marks=() if name in KNOWN else pytest.mark.long) for name, flood in FLOODS.items()],
)
async def test_a_flood_costs_others_nothing(attacked: Target, flood: Callable[[], Iterator[bytes]]) -> None:
    witness = Witness(attacked)
    before = attacked.memory()
    sent = []

    async def again_and_again(*, reads: bool) -> None:
        while witness.served < SERVED and not witness.failed and attacked.alive():
            sent.append(await attack(attacked.grpc_port, flood(), reads=reads))

    async with witness.watching(), asyncio.TaskGroup() as group:
        for reads in ATTACKERS:
            group.create_task(again_and_again(reads=reads))
    grown = witness.memory - before
    _log.info(
        "%d times %d KiB, %.1f MiB more, %d calls served, %d repeated",
        *(len(sent), sum(sent) // 1024, grown / MIB, witness.served, witness.shed),
    )
    assert attacked.alive()
    assert witness.failed == []
    assert grown < GROWTH, f"{grown / MIB:.0f} MiB more after {sum(sent) / MIB:.0f} MiB"


async def test_nothing_was_said_of_it_that_an_attacker_could_fill_a_disk_with(attacked: Target) -> None:
    log = attacked.process.stderr
    assert [line for line in log.splitlines() if "Traceback" in line] == []
    assert len(log) < 4 * MIB
