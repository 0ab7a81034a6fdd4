"""Log levels changed while the process runs: of everything, or of one logger, for good or for some time."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from services.runtime.telemetry import LEVELS

MOST_SECONDS = 24 * 3600.0
"""Longest time that a change may be for."""

_OURS = ("services", "gateway_http", "junctor")
"""Packages whose loggers may not be there yet: another process of the same command has them."""


@dataclass(slots=True)
class _Change:
    before: int
    level: int
    timer: asyncio.TimerHandle | None


class LogLevels:
    """The levels of one process. Belongs to one event loop."""

    def __init__(self) -> None:
        self._changes: dict[str, _Change] = {}

    def shown(self) -> dict[str, Any]:
        """Return the level of everything and of what is set apart: ``{"": "info", "services.access": "debug"}``."""
        root = logging.getLogger()
        levels = {"": logging.getLevelName(root.level).lower()}
        for name, change in self._changes.items():
            levels[name] = logging.getLevelName(change.level).lower()
        seconds = {name: _left(change) for name, change in self._changes.items() if change.timer is not None}
        return {"levels": levels, "seconds_left": seconds}

    def change(self, body: Any) -> dict[str, Any]:
        """Take ``{"level", "logger"?, "seconds"?}``; without ``seconds`` it stays. Raises ValueError with the rule."""
        if not isinstance(body, dict) or body.keys() - {"level", "logger", "seconds"}:
            raise ValueError("the body must be an object with level, and may have logger and seconds")
        level, name, seconds = body.get("level"), body.get("logger", ""), body.get("seconds")
        if level not in LEVELS:
            raise ValueError(f"level must be one of {', '.join(LEVELS)}")
        if not isinstance(name, str) or not (name == "" or name.partition(".")[0] in _OURS or _known(name)):
            raise ValueError("logger must be the name of one that there is, such as services.inference_router")
        if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float)):
            raise ValueError("seconds must be a number")
        if seconds is not None and not 0 < seconds <= MOST_SECONDS:
            raise ValueError(f"seconds must be above 0 and at most {MOST_SECONDS:.0f}")
        self._set(name, logging.getLevelNamesMapping()[level.upper()], seconds)
        return self.shown()

    def _set(self, name: str, level: int, seconds: float | None) -> None:
        logger = logging.getLogger(name)
        earlier = self._changes.pop(name, None)
        before = logger.level
        if earlier is not None and earlier.timer is not None:
            earlier.timer.cancel()
            before = earlier.before
        logger.setLevel(level)
        loop = asyncio.get_running_loop()
        timer = None if seconds is None else loop.call_later(seconds, self._back, name)
        self._changes[name] = _Change(before, level, timer)
        logging.getLogger(__name__).warning("log level changed", extra={"of": name or "everything", "to": level})

    def _back(self, name: str) -> None:
        change = self._changes.pop(name)
        logging.getLogger(name).setLevel(change.before)

    def stop(self) -> None:
        """Undo what was for some time."""
        for name, change in tuple(self._changes.items()):
            if change.timer is not None:
                change.timer.cancel()
                self._back(name)


def _known(name: str) -> bool:
    return name in logging.Logger.manager.loggerDict


def _left(change: _Change) -> float:
    assert change.timer is not None
    return round(max(0.0, change.timer.when() - asyncio.get_running_loop().time()), 1)
