"""A worker as its supervisor sees it: the process, the link to it, and the place that it fills."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from services.runtime.metrics import Family
from services.worker_link import Link, families_from

FIRST_BACKOFF, LAST_BACKOFF = 0.1, 5.0
"""Seconds before a worker that died is started again: doubling, and from the start after GOOD_SECONDS of life."""
GOOD_SECONDS = 30.0


class Worker:
    """One process and the link to it."""

    def __init__(self, process: subprocess.Popen[bytes], link: Link) -> None:
        self._process = process
        self.link = link
        self.code: int | None = None
        """Exit code, negative for a signal; None while it lives."""
        self.ended = asyncio.Event()
        self.born = time.monotonic()
        self.ready = False
        self.serving = asyncio.Event()
        """It listens."""
        self.changed = asyncio.Event()
        self.families: list[Family] = []
        self.details: dict[str, float] = {}
        self.scraped = 0
        self._answers: dict[int, dict[str, Any]] = {}

    async def listen(self) -> int:
        """Take what it says until it ends; returns its exit code."""
        while (message := await self.link.receive()) is not None:
            if "ready" in message:
                self.ready = message["ready"]
            if message.get("serving"):
                self.serving.set()
            if "scraped" in message:
                self.families = families_from(message["families"])
                self.details = message["details"]
                self.scraped = message["scraped"]
            if "debugged" in message:
                self._answers[message["debugged"]] = message
            self._wake()
        self.code = await asyncio.to_thread(self._process.wait)  # it holds the link until it ends
        self.ready = False
        self.ended.set()
        self._wake()
        await self.link.close()
        return self.code

    def _wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if it is gone."""
        self._process.send_signal(number)

    async def scrape(self, number: int) -> None:
        """Ask for its metrics, and wait for them a moment."""
        self.link.send(scrape=number)
        while self.scraped < number and self.code is None:
            await self.changed.wait()

    async def ask(self, number: int, question: str, body: Any) -> Any:
        """Ask it what an operator asks; None if it ends before it answers. Raises ValueError if it refuses."""
        self.link.send(debug=number, question=question, body=body)
        while number not in self._answers:
            if self.code is not None:
                return None
            await self.changed.wait()
        message = self._answers.pop(number)
        if "refused" in message:
            raise ValueError(message["refused"])
        return message["answer"]

    async def becomes_ready(self) -> bool:
        """Wait until it would serve; False if it ends before."""
        while not self.ready:
            if self.code is not None:
                return False
            await self.changed.wait()
        return True


@dataclass(slots=True)
class Slot:
    """The place of one worker: it is restarted here, with the same listener."""

    number: int
    listener: socket.socket | None
    worker: Worker | None = None
    starting: Worker | None = None
    """The next one, while a restart lets it get ready."""
    backoff: float = FIRST_BACKOFF
    restarts: int = 0

    @property
    def name(self) -> str:
        """What logs and metrics call it."""
        return f"worker-{self.number}"
