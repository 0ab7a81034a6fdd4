"""A sink for one consumer coroutine: callbacks fill it, the coroutine empties it at its own pace.

What waits is taken in one piece of below 1 MiB, so a slow consumer gets few large pieces instead of many
small ones. Above 256 KiB the source is paused, and resumed when the consumer has come back for more and
little is left.
"""

from __future__ import annotations

import asyncio

from services.runtime.exchange import Head, Outcome, Source

MAX_PIECE = 960 * 1024
"""Most bytes in one piece: no streamed message is above 1 MiB, and 64 KiB of it may be a head."""

PAUSE_ABOVE = 256 * 1024
"""Bytes that may wait before the source is paused."""

RESUME_BELOW = 64 * 1024
"""Bytes that may wait when it is resumed."""


class BufferedSink:
    """Takes one call's answer; see :class:`services.runtime.exchange.Sink` for the order of calls."""

    def __init__(self) -> None:
        self.response: Head | None = None
        self.outcome: Outcome | None = None
        self._source: Source | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._paused = False
        self._news = False
        self._over = False
        self._loop = asyncio.get_running_loop()
        # Not an Event, which looks its loop up at each wait: before 3.12 that is a system call.
        self._waiter: asyncio.Future[None] | None = None

    def head(self, head: Head, source: Source) -> None:
        """Take the head."""
        self.response, self._source = head, source
        self._tell()

    def data(self, data: bytes) -> None:
        """Take body bytes; pauses the source when too many wait."""
        self._chunks.append(data)
        self._size += len(data)
        if self._size > PAUSE_ABOVE and not self._paused and self._source is not None:
            self._paused = True
            self._source.pause_reading()
        self._tell()

    def end(self, outcome: Outcome) -> None:
        """Take the end; the source must not be touched from here on."""
        self.outcome, self._source = outcome, None
        self._tell()

    def finished(self, task: asyncio.Task[Outcome]) -> None:
        """Note that the call's task is done, whatever came of it; fits ``add_done_callback``."""
        if not task.cancelled():
            task.exception()  # looked at here, so that a consumer that went away leaves no warning behind
        self._over, self._source = True, None
        self._wake()

    async def more(self) -> bool:
        """Wait until there is something new to :meth:`take`; False: the call is over and all was taken."""
        self._relieve()
        while not self._news:
            if self._over:
                return False
            self._waiter = self._loop.create_future()
            await self._waiter
        return True

    def take(self) -> bytes:
        """Return what waits, at most ``MAX_PIECE`` bytes; empty if only the head or the end is new."""
        if len(self._chunks) == 1 and self._size <= MAX_PIECE:
            piece = self._chunks.pop()
        else:
            joined = b"".join(self._chunks)
            piece, rest = joined[:MAX_PIECE], joined[MAX_PIECE:]
            self._chunks = [rest] if rest else []
        self._size -= len(piece)
        self._news = self._size > 0
        return piece

    @property
    def whole(self) -> bool:
        """The end is here and no byte waits any more."""
        return self.outcome is not None and not self._size

    def _tell(self) -> None:
        self._news = True
        if self._waiter is not None:
            self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _relieve(self) -> None:
        if self._paused and self._source is not None and self._size <= RESUME_BELOW:
            self._paused = False
            self._source.resume_reading()
