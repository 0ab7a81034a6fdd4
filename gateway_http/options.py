"""What the edge's inference handler is built from, and how a request becomes a :class:`Call`."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway_http.cors import Cors
from gateway_http.gate import Gate
from gateway_http.limits import Limits
from junctor.errors import FieldViolation, InvalidField
from services.runtime import tags
from services.runtime.exchange import Call, Invoker

_ID_LIMIT = 128


def sequential_ids() -> Callable[[], str]:
    """Return a generator of request ids: a random part per process, then a counter; no system call each."""
    prefix, counter = f"req-{secrets.token_hex(8)}-", itertools.count(1)
    return lambda: f"{prefix}{next(counter):x}"


@dataclass(frozen=True, slots=True)
class EdgeOptions:
    """Parts and figures of the inference handler."""

    invoker: Invoker
    default_workspace: str = "default"
    """Workspace of plain ``/v1``."""
    limits: Limits = field(default_factory=Limits)
    cors: Cors | None = None
    """None: no page of another origin may call."""
    gate: Gate | None = None
    """None: auth is off."""
    request_id: Callable[[], str] = field(default_factory=sequential_ids)


def describe(call: Call, special: dict[bytes, bytes], options: EdgeOptions) -> None:
    """Fill in the request id and what the ``x-junctor-*`` fields ask for.

    Raises :class:`InvalidField` for a timeout that is not a positive number of milliseconds, and for bad tags.
    """
    call.request_id = request_id_of(special, options)
    if (timeout := special.get(b"x-junctor-timeout-ms")) is not None:
        call.timeout = _seconds(timeout)
    if (revision := special.get(b"x-junctor-min-revision")) is not None:
        call.min_revision = revision.decode("latin-1")
    if (session := special.get(b"x-junctor-session")) is not None:
        call.session = session.decode("latin-1")
    if (told := special.get(b"x-junctor-tags")) is not None:
        call.tags = _tags(told)
    call.want_receipt = special.get(b"x-junctor-receipt") == b"1"


def request_id_of(special: dict[bytes, bytes], options: EdgeOptions) -> str:
    """Return the caller's ``x-request-id`` if it may be kept, else a new one."""
    given = special.get(b"x-request-id")
    return given.decode() if given and usable_id(given) else options.request_id()


def usable_id(value: bytes) -> bool:
    """Tell whether a caller's ``x-request-id`` may be kept: 1 to 128 visible ASCII characters."""
    return 0 < len(value) <= _ID_LIMIT and value.isascii() and value.decode().isprintable() and b" " not in value


def _tags(value: bytes) -> tuple[tuple[str, str], ...]:
    """Read ``name=value, name=value``; of a name that comes twice the last counts."""
    parts = [part.partition("=") for part in value.decode("latin-1").split(",")]
    found = {name.strip(): text.strip() for name, _, text in parts}
    if not all(equals for _, equals, _ in parts) or not tags.fit(found.items()):
        rule = f"must be at most {tags.MOST} pairs name=value with commas between them"
        violation = FieldViolation("header.x-junctor-tags", rule)
        raise InvalidField(f"Invalid x-junctor-tags: {rule}", violations=(violation,))
    return tuple(sorted(found.items()))


def _seconds(value: bytes) -> float:
    if not value.isdigit() or len(value) > 9 or int(value) == 0:
        rule = "must be a positive number of milliseconds"
        raise InvalidField(
            f"Invalid x-junctor-timeout-ms: {rule}",
            violations=(FieldViolation("header.x-junctor-timeout-ms", rule),),
        )
    return int(value) / 1000
