"""What became of the last calls, and details of chosen ones in the log: hooks of :mod:`services.runtime.finished`.

Nothing of a request's or an answer's content is kept, only what a log line has.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from services.runtime.finished import Finished

KEPT = 500
"""Calls that are remembered."""
MOST_RULES = 32
_MIX = 0x9E3779B1
_BY = ("request-id", "tag", "key")

_log = logging.getLogger("services.sampled")


class RecentCalls:
    """The last calls of one process."""

    def __init__(self) -> None:
        self._calls: deque[tuple[Any, ...]] = deque(maxlen=KEPT)

    def __call__(self, finished: Finished) -> None:
        """Remember one call: a tuple of what is there already."""
        call, error = finished.call, finished.error
        self._calls.append(
            (
                time.time(),
                call.request_id,
                call.route.value,
                call.workspace,
                finished.virtual_model,
                finished.provider,
                finished.status,
                finished.verdict,
                finished.source,
                "" if error is None else error.reason,
                finished.attempts,
                finished.total_seconds,
                finished.queue_seconds,
            )
        )

    def shown(self) -> list[dict[str, Any]]:
        """Return them, the newest first; times in milliseconds."""
        return [_shown(call) for call in reversed(self._calls)]


def _shown(kept: tuple[Any, ...]) -> dict[str, Any]:
    ended, request_id, route, workspace, model, provider, status, verdict, source, reason, attempts, total, queue = kept
    return {
        "ended_at": datetime.fromtimestamp(ended, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "request_id": request_id,
        "route": route,
        "workspace": workspace,
        "model": model,
        "provider": provider,
        "status": status,
        "verdict": verdict,
        "error_source": source,
        "error": reason,
        "attempts": _attempts(attempts),
        "ms": round(total * 1000, 1),
        "queue_ms": round(queue * 1000, 1),
    }


def _attempts(attempts: tuple[Any, ...]) -> list[dict[str, Any]]:
    return [
        {"provider": each.provider, "status": each.status, "failure": each.failure, "ms": round(each.milliseconds, 1)}
        for each in attempts
    ]


@dataclass(frozen=True, slots=True)
class Rule:
    """Calls to write down in detail: those whose ``by`` is ``value``, of them ``share`` (0 to 1)."""

    by: str
    value: str
    share: float
    until: float
    """Time of the process's clock after which it no longer holds."""

    def fits(self, finished: Finished) -> bool:
        """Tell whether this call is one of them."""
        call = finished.call
        if self.by == "request-id":
            found = call.request_id == self.value
        elif self.by == "tag":
            found = any(f"{name}={value}" == self.value for name, value in call.tags)
        else:
            found = getattr(call.principal, "principal", "") in (self.value, f"key:{self.value}")
        return found and zlib.crc32(call.request_id.encode()) * _MIX % 2**32 < self.share * 2**32


class Sampling:
    """The rules of one process; without any a call costs one comparison."""

    def __init__(self) -> None:
        self._rules: tuple[Rule, ...] = ()

    def __call__(self, finished: Finished) -> None:
        """Write one call down if a rule asks for it."""
        if not self._rules:
            return
        now = time.monotonic()
        if any(now < rule.until and rule.fits(finished) for rule in self._rules):
            _log.info("request in detail", extra=_details(finished))
        elif all(now >= rule.until for rule in self._rules):
            self._rules = ()

    def shown(self) -> dict[str, Any]:
        """Return the rules that hold."""
        now = time.monotonic()
        rules = [
            {"by": rule.by, "value": rule.value, "share": rule.share, "seconds_left": round(rule.until - now, 1)}
            for rule in self._rules
            if now < rule.until
        ]
        return {"rules": rules}

    def change(self, body: Any) -> dict[str, Any]:
        """Take ``{"rules": [{"by", "value", "share"?, "seconds"?}]}``, in place of those there are.

        ``seconds``: 600 unless given. Raises ValueError with the rule that is broken.
        """
        rules = body.get("rules") if isinstance(body, dict) and body.keys() == {"rules"} else None
        if not isinstance(rules, list) or len(rules) > MOST_RULES:
            raise ValueError(f"the body must be an object with rules, a list of at most {MOST_RULES}")
        self._rules = tuple(_rule(rule, index) for index, rule in enumerate(rules))
        _log.setLevel(logging.INFO if self._rules else logging.NOTSET)  # also where the rest is quiet
        return self.shown()


def _rule(given: Any, index: int) -> Rule:
    place = f"rules[{index}]"
    if not isinstance(given, dict) or given.keys() - {"by", "value", "share", "seconds"}:
        raise ValueError(f"{place} must be an object with by and value, and may have share and seconds")
    by, value = given.get("by"), given.get("value")
    share, seconds = given.get("share", 1.0), given.get("seconds", 600)
    if by not in _BY:
        raise ValueError(f"{place}.by must be one of {', '.join(_BY)}")
    if not isinstance(value, str) or not 0 < len(value) <= 256 or (by == "tag" and "=" not in value):
        raise ValueError(f"{place}.value must be text of 1 to 256 characters; of a tag NAME=VALUE")
    if not _number(share) or not 0 < share <= 1:
        raise ValueError(f"{place}.share must be above 0 and at most 1")
    if not _number(seconds) or not 0 < seconds <= 24 * 3600:
        raise ValueError(f"{place}.seconds must be above 0 and at most {24 * 3600}")
    return Rule(by, value, float(share), time.monotonic() + seconds)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _details(finished: Finished) -> dict[str, Any]:
    call = finished.call
    return {
        "request_id": call.request_id,
        "route": call.route.value,
        "workspace": call.workspace,
        "model": finished.virtual_model,
        "entity": finished.entity,
        "provider": finished.provider,
        "upstream_model": finished.upstream_model,
        "caller": getattr(call.principal, "principal", ""),
        "tags": dict(call.tags),
        "status": finished.status,
        "verdict": finished.verdict,
        "error_source": finished.source,
        "error": "" if finished.error is None else finished.error.reason,
        "attempts": _attempts(finished.attempts),
        "body_bytes": len(call.body),
        "connect_ms": round(finished.connect_seconds * 1000, 1),
        "queue_ms": round(finished.queue_seconds * 1000, 1),
        "upstream_ms": round(finished.upstream_seconds * 1000, 1),
        "ms": round(finished.total_seconds * 1000, 1),
    }
