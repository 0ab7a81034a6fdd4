"""What a caller is told of its limits: the header fields that OpenAI's clients read, and the error of a refused call.

``x-ratelimit-{limit,remaining,reset}-{requests,tokens}`` as platform.openai.com/docs/guides/rate-limits has them;
resets are durations as Go writes them (``59s``, ``1m0s``), in whole seconds. Budgets have no fields of their own there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from junctor.errors import LimitExceeded
from services.inference_router.limits_windows import Unit, Window
from services.runtime.exchange import Headers

_MINUTE = 60
_WORDS = {Unit.REQUESTS: "requests", Unit.TOKENS: "tokens"}
_LIMIT = {unit: f"x-ratelimit-limit-{word}".encode() for unit, word in _WORDS.items()}
_REMAINING = {unit: f"x-ratelimit-remaining-{word}".encode() for unit, word in _WORDS.items()}
_RESET = {unit: f"x-ratelimit-reset-{word}".encode() for unit, word in _WORDS.items()}
FIELDS: Final = frozenset((*_LIMIT.values(), *_REMAINING.values(), *_RESET.values()))
"""Names of the fields; a provider's own are left out where junctor says them."""
_LIMIT_NAMES = {
    (Unit.REQUESTS, _MINUTE): "requests_per_minute",
    (Unit.TOKENS, _MINUTE): "tokens_per_minute",
    (Unit.COST, 86_400): "budget_per_day",
}
_UNITS = {Unit.REQUESTS: "requests", Unit.TOKENS: "tokens"}


def duration(seconds: float) -> bytes:
    """Write a duration as Go does, in whole seconds, rounded up."""
    whole = max(0, math.ceil(seconds))
    if whole < _MINUTE:
        return b"%ds" % whole
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, _MINUTE)
    return b"%dh%dm%ds" % (hours, minutes, left) if hours else b"%dm%ds" % (minutes, left)


_RESETS = {unit: tuple((name, duration(second)) for second in range(_MINUTE + 1)) for unit, name in _RESET.items()}
"""The reset fields by whole seconds left: they are most of what writing the fields would cost."""


def fields_of(windows: Iterable[Window], now: float) -> Headers:
    """Return the fields of windows, one of each unit at most; none for a budget."""
    fields: Headers = []
    for window in windows:
        unit = window.unit
        if unit is Unit.COST:
            continue
        remaining = window.allowed - window.others - window.granted + window.left
        limit = window.told
        if limit is None or limit[0] != window.allowed:
            limit = window.told = (window.allowed, (_LIMIT[unit], b"%d" % window.allowed))
        fields.append(limit[1])
        fields.append((_REMAINING[unit], b"%d" % (remaining if remaining > 0 else 0)))
        fields.append(_RESETS[unit][min(max(-int((now - window.end) // 1), 0), _MINUTE)])
    return fields


def tightest(windows: Iterable[Window]) -> list[Window]:
    """Return the window with the least left of each unit: a key's or its workspace's."""
    found: dict[Unit, Window] = {}
    for window in windows:
        other = found.get(window.unit)
        if other is None or window.remaining < other.remaining:
            found[window.unit] = window
    return list(found.values())


def limit_name(window: Window) -> str:
    """Name a limit as a key's and a workspace's ``limits`` do; budgets with their period."""
    return _LIMIT_NAMES.get((window.unit, window.end - window.start), "budget_per_month")


def exceeded(window: Window, wanted: int, windows: Iterable[Window], now: float) -> LimitExceeded:
    """Return the error of a call that wants more of a window than there is."""
    whose, _, name = window.subject.partition(":")
    owner = f"workspace '{name}'" if whose == "workspace" else "this key"
    seconds = max(1, math.ceil(window.end - now))
    used = min(window.used, window.allowed)
    metadata = {
        "limit": limit_name(window),
        "subject": whose,
        "allowed": str(window.allowed),
        "used": str(used),
        "requested": str(wanted),
        "reset": str(seconds),
    }
    metadata |= {name.decode(): value.decode() for name, value in fields_of(tightest(windows), now)}
    return LimitExceeded(
        f"The limit {limit_name(window)} of {owner} is reached: {_amount(window, window.allowed)} allowed, "
        f"{_amount(window, used)} used, {_amount(window, wanted)} needed; it is reset in {duration(seconds).decode()}",
        metadata=metadata,
        retry_after=float(seconds),
    )


def crowded(workspace: str, allowed: int, running: int) -> LimitExceeded:
    """Return the error of a call to a workspace that has as many under way as it may."""
    return LimitExceeded(
        f"Workspace '{workspace}' may have {allowed} requests at the same time",
        metadata={"limit": "concurrency", "subject": "workspace", "allowed": str(allowed), "used": str(running)},
        retry_after=1.0,
    )


def _amount(window: Window, amount: int) -> str:
    if window.unit is Unit.COST:
        return f"{amount / 1_000_000:.6f}".rstrip("0").rstrip(".") + " USD"
    return f"{amount} {_UNITS[window.unit]}"
