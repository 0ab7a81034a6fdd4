"""Frames of many calls on their way into one stream: what is added within a turn of the loop leaves as one message.

Either end of ``InvokeMany`` has one. Writing a message costs the same for one frame as for fifty.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from google.protobuf.message import Message

MESSAGE_BYTES = 512 * 1024
"""Bytes of frames after which a new message is begun."""
PIECE_BYTES = 256 * 1024
"""Most body bytes of one frame, so that a large answer leaves room for others."""


MessageT = TypeVar("MessageT", bound=Message)


class Outbox(Generic[MessageT]):
    """Messages that wait to be written; the last of them, :attr:`open`, takes more frames."""

    def __init__(self, make: Callable[[], MessageT]) -> None:
        self._make = make
        self._messages: deque[tuple[MessageT, int]] = deque()
        self.open = make()
        self._room = MESSAGE_BYTES
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self._urgent = False
        self.size = 0
        """Bytes that wait, about."""
        self.message = 0
        """Number of the message that frames are added to; a frame of an earlier one has gone."""

    def room(self, size: int) -> None:
        """Make room for a frame of about ``size`` bytes, which the caller adds to :attr:`open` now."""
        if self._room < size and self._room < MESSAGE_BYTES:
            self._messages.append((self.open, MESSAGE_BYTES - self._room))
            self._begin()
        self.grow(size)

    def grow(self, size: int) -> None:
        """Note that bytes are added to a frame of the present message."""
        self._room -= size
        self.size += size
        self._wake()

    def send(self) -> None:
        """Have the present message leave although it may have no frame."""
        self._urgent = True
        self._wake()

    def close(self) -> None:
        """Let :meth:`take` end once all was taken."""
        self._closed = True
        self._wake()

    async def take(self) -> MessageT | None:
        """Wait for a message and return it; None: closed, and all was taken."""
        while not (self._messages or self._urgent or self._room < MESSAGE_BYTES):
            if self._closed:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._messages:
            message, size = self._messages.popleft()
        else:
            message, size = self.open, MESSAGE_BYTES - self._room
            self._begin()
        self.size -= size
        return message

    def _begin(self) -> None:
        self.open = self._make()
        self._room = MESSAGE_BYTES
        self._urgent = False
        self.message += 1

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
