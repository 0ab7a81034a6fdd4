from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from junctor.errors import UpstreamInvalid
from services.inference_router.typed_stream import EVENT_LIMIT, SseEvent, SseParser

STREAMS = {
    "line feeds": (b"data: a\n\ndata: b\n\n", [("", b"a"), ("", b"b")]),
    "both": (b"data: a\r\n\r\ndata: b\r\n\r\n", [("", b"a"), ("", b"b")]),
    "carriage returns": (b"data: a\r\rdata: b\r\r", [("", b"a"), ("", b"b")]),
    "mixed": (b"data: a\r\n\ndata: b\n\r\n", [("", b"a"), ("", b"b")]),
    "several data lines": (b"data: a\ndata: b\ndata\n\n", [("", b"a\nb\n")]),
    "no space": (b"data:a\n\n", [("", b"a")]),
    "two spaces": (b"data:  a\n\n", [("", b" a")]),
    "name": (b"event: x\ndata: a\n\ndata: b\n\n", [("x", b"a"), ("", b"b")]),
    "name without data": (b"event: x\n\ndata: b\n\n", [("", b"b")]),
    "comments and other fields": (b": hi\nid: 1\nretry: 5\nfoo: bar\ndata: a\n\n", [("", b"a")]),
    "colons in data": (b'data: {"a":1}\n\n', [("", b'{"a":1}')]),
    "multi-byte": ("data: é😀\n\n".encode(), [("", "é😀".encode())]),
    "other line ends are data": (b"data: a\x0b\x0c\x1c\xc2\x85b\n\n", [("", b"a\x0b\x0c\x1c\xc2\x85b")]),
    "empty data": (b"data:\n\n", [("", b"")]),
}


def parse(*pieces: bytes) -> list[SseEvent]:
    parser = SseParser()
    return [event for piece in pieces for event in parser.feed(piece)]


@pytest.mark.parametrize(("stream", "expected"), STREAMS.values(), ids=STREAMS.keys())
def test_events_are_found_whole_and_byte_by_byte(stream, expected):
    events = [SseEvent(name, data) for name, data in expected]
    assert parse(stream) == events
    assert parse(*(stream[n : n + 1] for n in range(len(stream)))) == events


LINES = st.lists(
    st.sampled_from([b"data: a", b"data:", b"event: x", b": c", b"", b"", b"data: \xc3\xa9"]), min_size=1, max_size=12
)


@settings(deadline=None)
@given(LINES, st.lists(st.sampled_from([b"\n", b"\r\n", b"\r"]), min_size=12, max_size=12), st.data())
def test_where_a_stream_is_cut_changes_nothing(lines, ends, data):
    stream = b"".join(line + end for line, end in zip(lines, ends, strict=False))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert parse(*pieces) == parse(stream)


def test_the_last_event_needs_its_empty_line_unless_flushed():
    parser = SseParser()
    assert parser.feed(b"data: a\n\ndata: b") == [SseEvent("", b"a")]
    assert parser.flush() == [SseEvent("", b"b")]
    assert parser.flush() == []


def test_an_event_without_end_is_refused():
    parser = SseParser()
    piece = b"data: " + b"x" * (1024 * 1024)
    for _ in range(EVENT_LIMIT // len(piece) - 1):
        parser.feed(piece)
    with pytest.raises(UpstreamInvalid):
        parser.feed(piece * 2)


def test_many_events_are_no_endless_one():
    parser = SseParser()
    stream = (b"data: " + b"x" * 1000 + b"\n\n") * 1000
    for _ in range(EVENT_LIMIT // len(stream) + 2):
        assert len(parser.feed(stream)) == 1000
