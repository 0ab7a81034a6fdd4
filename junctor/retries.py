"""Whether and when a call is sent again: pure, one rule for both clients.

Sent again are 408, 409, 429 and 5xx, unless ``x-should-retry: false`` says otherwise (``true`` adds any other
status); a connection that could not be made; and one that broke, if the method is one that may be repeated.
The server's ``retry-after-ms`` or ``retry-after`` is obeyed up to a minute; a longer one is left to the caller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

MAX_RETRIES: Final = 2
"""Repeats, so three attempts in all: what clients of the compatible contract do."""
LONGEST_WAIT: Final = 60.0
"""Seconds."""
_RETRIED: Final = frozenset((408, 409, 429))
_REPEATABLE: Final = frozenset(("GET", "HEAD", "PUT", "DELETE", "OPTIONS"))


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often. Waits without advice double from ``first`` up to ``longest`` seconds, less a random quarter."""

    retries: int = MAX_RETRIES
    first: float = 0.5
    longest: float = 8.0

    def after_answer(self, attempt: int, status: int, headers: Mapping[str, str], chance: float) -> float | None:
        """Return the seconds to wait before the next attempt, None for no more.

        ``attempt`` counts from 0; ``chance`` is a random number of 0 to 1.
        """
        if attempt >= self.retries or not _asks_again(status, headers):
            return None
        advised = retry_after(headers)
        if advised is None:
            return self.pause(attempt, chance)
        return advised if advised <= LONGEST_WAIT else None

    def after_failure(self, attempt: int, method: str, chance: float, *, sent: bool) -> float | None:
        """The same for a call without an answer; ``sent``: the server may have received it."""
        if attempt >= self.retries or (sent and method not in _REPEATABLE):
            return None
        return self.pause(attempt, chance)

    def pause(self, attempt: int, chance: float) -> float:
        """Return the wait without advice."""
        return min(self.first * 2.0**attempt, self.longest) * (1 - chance / 4)


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Read the wait that the server advises, in seconds; a date is taken against ``now``."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        when = parsedate_to_datetime(headers.get("retry-after", ""))
    except (ValueError, TypeError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())


def _asks_again(status: int, headers: Mapping[str, str]) -> bool:
    advice = headers.get("x-should-retry")
    if advice in ("true", "false"):
        return advice == "true"
    return status in _RETRIED or status >= 500
