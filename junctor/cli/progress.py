"""Says on a terminal that an answer is being waited for, once that takes longer than a second."""

from __future__ import annotations

import sys
from threading import Lock, Timer

AFTER = 1.0
"""Seconds of silence before anything is said."""


class Waiting:
    """One line on standard error, taken back when the answer comes. Says nothing where nobody watches."""

    def __init__(self, told: str) -> None:
        self._told = f"waiting for {told} …"
        self._lock = Lock()
        self._timer: Timer | None = None
        self._shown = False

    def start(self) -> None:
        """Begin to wait; a second beginning takes the first one's place."""
        self.stop()
        if not sys.stderr.isatty():
            return
        timer = Timer(AFTER, self._show)
        timer.daemon = True
        with self._lock:
            self._timer = timer
        timer.start()

    def stop(self) -> None:
        """End the wait, and take the line back if it is there."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None
            if self._shown:
                _write("\r" + " " * len(self._told) + "\r")
            self._shown = False

    def _show(self) -> None:
        with self._lock:
            if self._timer is not None:
                _write(self._told)
                self._shown = True


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
