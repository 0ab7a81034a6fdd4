"""Bounds what retries may add to the load: a token bucket per virtual model and router."""

from __future__ import annotations

TOKENS_PER_SECOND = 10.0
TOKENS_PER_REQUEST = 0.2
MOST_TOKENS = 100.0

_ROUNDING = 1e-6


class RetryBudget:
    """10 tokens a second plus 0.2 for each request, at most 100, full at the start; a retry takes one.

    Times are monotonic seconds and passed in.
    """

    __slots__ = ("_at", "_tokens")

    def __init__(self, now: float) -> None:
        self._at = now
        self._tokens = MOST_TOKENS

    def request(self, now: float) -> None:
        """Count one request of a caller."""
        if self._tokens == MOST_TOKENS:
            self._at = max(self._at, now)
        else:
            self._refill(now, TOKENS_PER_REQUEST)

    def take(self, now: float) -> bool:
        """Take the token of one retry; False: there is none, so the retry must not be made."""
        self._refill(now, 0.0)
        if self._tokens < 1.0 - _ROUNDING:
            return False
        self._tokens -= 1.0
        return True

    def _refill(self, now: float, extra: float) -> None:
        earned = max(0.0, now - self._at) * TOKENS_PER_SECOND + extra
        self._tokens = min(MOST_TOKENS, self._tokens + earned)
        self._at = max(self._at, now)
