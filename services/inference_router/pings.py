"""Comments in the silences of an event stream, so that nothing between here and the caller takes it for dead.

Off unless ``JUNCTOR_SSE_PING`` is set: a ping before the first event commits the answer, and no other provider is
tried after it. One timer per stream; nothing is done per event but to remember its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter

from services.runtime.exchange import Head, Outcome, Sink, Source

PING = b": ping\n\n"

_EVENT_ENDS = (b"\n\n", b"\n\r\n", b"\r\r", b"\r\n\r\n")
"""Of an event; each after a line's end in any of the three spellings of the HTML standard."""


class Pinger:
    """A sink in front of a stream's own, and the source that this one pauses. Silent while it is paused."""

    __slots__ = (
        "_due",
        "_loop",
        "_paused",
        "_ping",
        "_seconds",
        "_sink",
        "_source",
        "_tail",
        "_timer",
        "first_byte_at",
    )

    def __init__(self, sink: Sink, seconds: float, ping: Callable[[], None]) -> None:
        """``ping`` is called after ``seconds`` of silence between two events, and whenever as long goes by again."""
        self.first_byte_at = 0.0
        """When the first byte of the provider's was passed on, by perf_counter; 0: not yet."""
        self._sink = sink
        self._seconds = seconds
        self._ping = ping
        self._loop = asyncio.get_running_loop()
        self._tail = b""
        self._source: Source | None = None
        self._paused = False
        self._due = self._loop.time() + seconds
        self._timer: asyncio.TimerHandle | None = self._loop.call_at(self._due, self._look)

    def head(self, head: Head, source: Source) -> None:
        """Pass the head on."""
        self._source = source
        self._sink.head(head, self)

    def data(self, data: bytes) -> None:
        """Pass bytes on, and note that there is no silence."""
        self._due = self._loop.time() + self._seconds
        if not self.first_byte_at and data is not PING:
            self.first_byte_at = perf_counter()
        self._tail = data[-4:] if len(data) >= 4 else (self._tail + data)[-4:]
        self._sink.data(data)

    def end(self, outcome: Outcome) -> None:
        """Pass the end on."""
        self.stop()
        self._sink.end(outcome)

    def stop(self) -> None:
        """Ping no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pause_reading(self) -> None:
        """Pause the provider: the caller has enough to read."""
        self._paused = True
        if self._source is not None:
            self._source.pause_reading()

    def resume_reading(self) -> None:
        """Undo :meth:`pause_reading`."""
        self._paused = False
        if self._source is not None:
            self._source.resume_reading()

    def _look(self) -> None:
        now = self._loop.time()
        if now >= self._due:
            self._due = now + self._seconds
            if not self._paused and (not self._tail or self._tail.endswith(_EVENT_ENDS)):
                self._ping()
        if self._timer is not None:  # the ping may have been the end
            self._timer = self._loop.call_at(self._due, self._look)
