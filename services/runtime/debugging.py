"""What an operator may ask a running process, and change of it, without a restart.

Questions and answers are JSON, so that they pass over the admin port and from a supervisor to its workers alike.
No answer has a secret: settings are redacted, and every text passes the log's redactor.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from services.runtime.finished import Finished
from services.runtime.log_levels import LogLevels
from services.runtime.recent_calls import RecentCalls, Sampling

About = Callable[[], Awaitable[dict[str, Any]]]
"""Tells what a process is: versions, settings without secrets, revisions."""
Redact = Callable[[Any], Any]
"""Takes secrets out of an answer."""

QUESTIONS = ("info", "tasks", "calls", "log-level", "sampling", "bundle")
CHANGES = ("log-level", "sampling")
"""Questions that take a body, too."""

_FRAMES = 12


class Debug(Protocol):
    """Answers questions for one process, or for several."""

    async def __call__(self, question: str, body: Any = None) -> dict[str, Any]:
        """Answer one of QUESTIONS, by the name of each process. Raises ValueError for a body that it cannot take."""


class Debugging:
    """One process's answers. Belongs to one event loop; hears of every call as a hook."""

    def __init__(self, about: About, redact: Redact) -> None:
        self._about = about
        self._redact = redact
        self._calls = RecentCalls()
        self._sampling = Sampling()
        self._levels = LogLevels()

    def __call__(self, finished: Finished) -> None:
        """Hear of a call that has ended."""
        self._calls(finished)
        self._sampling(finished)

    async def answer(self, question: str, body: Any = None) -> Any:
        """Answer one question; ``body`` None only reads. Raises ValueError."""
        if body is not None:
            change = {"log-level": self._levels.change, "sampling": self._sampling.change}[question]
            return change(body)
        return self._redact(await self._read(question))

    async def _read(self, question: str) -> Any:
        if question == "info":
            return await self._about()
        if question == "bundle":
            return {name: await self._read(name) for name in QUESTIONS if name != "bundle"}
        reads: Mapping[str, Callable[[], Any]] = {
            "tasks": tasks,
            "calls": self._calls.shown,
            "log-level": self._levels.shown,
            "sampling": self._sampling.shown,
        }
        return reads[question]()

    def stop(self) -> None:
        """Undo what was for some time."""
        self._levels.stop()


def tasks() -> dict[str, Any]:
    """Return where every task and every thread is: files, lines and functions, no values."""
    found = [
        {"name": task.get_coro().__qualname__, "stack": _stack(task)}  # type: ignore[union-attr]  # all have one
        for task in asyncio.all_tasks()
        if hasattr(task.get_coro(), "__qualname__")
    ]
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    threads = [
        {"name": names.get(ident, "?"), "stack": _lines(traceback.extract_stack(frame, limit=_FRAMES))}
        for ident, frame in sys._current_frames().items()
    ]
    return {"tasks": sorted(found, key=lambda task: str(task["name"])), "threads": threads}


def _stack(task: asyncio.Task[Any]) -> list[str]:
    frames = task.get_stack(limit=_FRAMES)
    return [f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}" for frame in frames]


def _lines(stack: traceback.StackSummary) -> list[str]:
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in stack]
