"""One limit in one window of time as one router has it: what it may still use of it, and what it used. Pure.

Windows are fixed and begin at whole minutes, days or months, UTC. What is counted are requests, tokens, or millionths
of a US dollar. ``left`` is all that admission looks at; whoever takes gives the rest back when the call has ended.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum
from typing import Final

NEVER: Final = -(2**62)
"""A low-water mark that is never reached."""


class Unit(Enum):
    """What is counted; the numbers are those of ``junctor.v1.QuotaUnit``."""

    REQUESTS = 1
    TOKENS = 2
    COST = 3


class Period(Enum):
    """How long a window is."""

    MINUTE = "minute"
    DAY = "day"
    MONTH = "month"


def bounds(period: Period, now: float) -> tuple[int, int]:
    """Return when the window that ``now`` lies in begins and ends, UNIX seconds."""
    if period is Period.MINUTE:
        start = int(now) // 60 * 60
        return start, start + 60
    if period is Period.DAY:
        start = int(now) // 86_400 * 86_400
        return start, start + 86_400
    first = datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    after = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    return int(first.timestamp()), int(after.timestamp())


class Window:
    """See the module. Made by :mod:`services.inference_router.limits`; filled by leases, or whole at once without."""

    __slots__ = (
        "allowed", "asked", "end", "full_for", "full_until", "granted", "heard", "left", "low", "others", "reported",
        "seen", "start", "subject", "told", "unit", "used_by_all",
    )  # fmt: skip

    def __init__(self, subject: str, unit: Unit, allowed: int, span: tuple[int, int]) -> None:
        self.subject = subject
        """``key:<id>`` or ``workspace:<name>``."""
        self.unit = unit
        self.allowed = allowed
        self.start, self.end = span
        self.granted = 0
        """What this router may use of it, all in all."""
        self.left = 0
        """What of that is neither used nor reserved; negative: more was used than it held."""
        self.low = NEVER
        """At this many left, more is asked for."""
        self.others = 0
        """What other routers have used or hold, as far as is known."""
        self.used_by_all = 0
        """What all routers have used, as far as was last said; of this one more is known."""
        self.reported = 0
        """What this router last said that it used."""
        self.asked = 0
        """What was used when more was last asked for: the demand since then sizes the next share."""
        self.heard = 0.0
        """When the question was put that was answered last about it, by the event loop's clock; 0: none was."""
        self.full_for = 0
        """This much was refused, and nothing has changed since as far as is known until :attr:`full_until`."""
        self.full_until = 0.0
        self.told: tuple[int, tuple[bytes, bytes]] | None = None
        """How much is allowed, and the header field that says it."""
        self.seen = 0
        """What was spent at the last look for idle ones."""

    @property
    def spent(self) -> int:
        """What is used or reserved here."""
        return self.granted - self.left

    @property
    def used(self) -> int:
        """What is used or reserved by all routers, as far as is known."""
        return max(0, self.used_by_all - self.reported) + self.spent

    @property
    def remaining(self) -> int:
        """What callers may still count on, as far as is known."""
        return max(0, self.allowed - self.others - self.spent)

    def fill(self) -> None:
        """Hold the whole window: there is no other router."""
        self.left += self.allowed - self.granted
        self.granted = self.allowed

    def hold(self, granted: int) -> None:
        """Hold ``granted`` all in all from now on."""
        self.left += granted - self.granted
        self.granted = granted
