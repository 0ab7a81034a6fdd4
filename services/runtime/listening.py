"""Hears that another replica has written: PostgreSQL's LISTEN on one connection of its own.

A notification is a hint and may be lost; the log is the truth, and whoever watches it also looks at every heartbeat.
After every connection the hint is given once, for what came while nobody listened.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from typing import Any

from services.runtime.db import Connect

CHECK_SECONDS = 15.0
"""How often a silent connection is asked whether it is still one."""
_ANSWER_SECONDS = 5.0
_BACKOFF = (0.1, 5.0)
"""Seconds before the first and the later attempts to connect again, halved at random."""

_log = logging.getLogger(__name__)


class Listener:
    """Calls ``wake`` for each notification on ``channel`` that does not carry the payload ``own``."""

    def __init__(self, connect: Connect, channel: str, wake: Callable[[], None], *, own: str) -> None:
        self._connect = connect
        self._channel = channel
        self._wake = wake
        self._own = own
        self._failures = 0
        self._said = False

    async def run(self) -> None:
        """Listen until cancelled, over every loss of the connection."""
        while True:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001 - a driver has many words for a connection that went
                self._say(error)
            first, most = _BACKOFF
            pause = min(most, first * 2**self._failures)
            self._failures += 1
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads the replicas

    async def _listen(self) -> None:
        """Listen on one connection until it is lost."""
        connection = await self._connect()
        try:
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(self._channel, self._heard)
            self._failures = 0
            self._said = False
            self._wake()
            while not lost.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_SECONDS):
                        await lost.wait()
                        return
                await connection.execute("SELECT 1", timeout=_ANSWER_SECONDS)
        finally:
            connection.terminate()  # nothing is under way that the server must hear of

    def _say(self, error: Exception) -> None:
        """Say once that nobody listens, not at every attempt: the driver has another word for each of them."""
        level = logging.DEBUG if self._said else logging.WARNING
        self._said = True
        _log.log(level, "cannot listen for the changes of other replicas: %s", type(error).__name__)

    def _heard(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        if payload != self._own:
            self._wake()
