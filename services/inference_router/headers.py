"""Which header fields pass, in both directions (the design's life of a request, step 3).

To the provider: everything but framing, hop-by-hop fields, credentials and identity; provider defaults < caller
< required; the credential last. Back: everything but hop-by-hop fields, cookies and what the edge recomputes.
"""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import parsedate_to_datetime

from services.runtime.exchange import Headers

Fields = Sequence[tuple[bytes, bytes]]

_HOP = frozenset(
    b"connection keep-alive proxy-connection te trailer trailers transfer-encoding upgrade http2-settings "
    b"proxy-authenticate proxy-authorization proxy-authentication-info proxy-status".split()
)
_FRAMING = _HOP | {b"content-length", b"host", b"expect"}
_NOT_UP = _FRAMING | frozenset(
    b"authorization cookie cookie2 x-api-key api-key x-goog-api-key forwarded x-real-ip".split()
)
_NOT_UP_PREFIXES = (b"x-forwarded-", b"x-nmp-", b"x-junctor-", b"proxy-")
_NOT_DOWN = _HOP | frozenset(b"content-length set-cookie set-cookie2 date alt-svc".split())
_NOT_DOWN_CODED = _NOT_DOWN | {b"content-encoding"}
_NOT_DOWN_PREFIXES = (b"x-junctor-", b"proxy-")
_IDENTITY = (b"accept-encoding", b"identity")
_NOT_UP_CODED = _NOT_UP | {b"accept-encoding"}
_NONE: frozenset[bytes] = frozenset()


def request_headers(
    caller: Headers,
    *,
    default_extra: Fields = (),
    required_extra: Fields = (),
    auth: tuple[bytes, bytes] | None = None,
    accept_identity: bool = False,
    allow: frozenset[bytes] | None = None,
) -> Headers:
    """Return the fields to send to a provider, framing and ``host`` not among them.

    Names are in lower case. ``accept_identity`` asks for an answer without compression, ``allow`` (None: off)
    lists the only names of the caller that pass. Extra fields can set neither framing nor hop-by-hop fields.
    """
    dropped = _NOT_UP_CODED if accept_identity else _NOT_UP
    if named := _named_by_connection(caller):
        dropped = dropped | named
    out = [pair for pair in caller if pair[0] not in dropped and not pair[0].startswith(_NOT_UP_PREFIXES)]
    if allow is not None:
        out = [pair for pair in out if pair[0] in allow]
    if accept_identity:
        out.append(_IDENTITY)
    if default_extra:
        present = {name for name, _ in out}
        out += [pair for pair in default_extra if pair[0] not in present and pair[0] not in _FRAMING]
    if required_extra:
        out = _override(out, [pair for pair in required_extra if pair[0] not in _FRAMING])
    if auth is None:
        return out
    if auth[0] in dropped and not (default_extra or required_extra):
        out.append(auth)
        return out
    return _override(out, [auth])


def response_headers(headers: Headers, *, decoded: bool = False) -> Headers:
    """Return the fields of a provider's answer that the caller gets; the sink adds framing and ``date``.

    ``decoded``: the body was decompressed, so ``content-encoding`` no longer holds.
    """
    dropped = _NOT_DOWN_CODED if decoded else _NOT_DOWN
    if named := _named_by_connection(headers):
        dropped = dropped | named
    return [pair for pair in headers if pair[0] not in dropped and not pair[0].startswith(_NOT_DOWN_PREFIXES)]


def retry_after_seconds(headers: Headers, now: float) -> float | None:
    """Return how long the provider asks to wait: ``retry-after-ms``, else ``retry-after`` (seconds or date).

    ``now`` is the UNIX time that a date is compared with. None if neither is there or can be read.
    """
    found = {name: value for name, value in headers if name in (b"retry-after", b"retry-after-ms")}
    if (milliseconds := _number(found.get(b"retry-after-ms"))) is not None:
        return milliseconds / 1000
    text = found.get(b"retry-after")
    if text is None or (seconds := _number(text)) is not None:
        return None if text is None else seconds
    try:
        return max(0.0, parsedate_to_datetime(text.decode("latin-1")).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def field_of(headers: Headers, name: bytes) -> bytes:
    """Return the first value of a field; empty if it is not there."""
    for key, value in headers:
        if key == name:
            return value
    return b""


def _number(text: bytes | None) -> float | None:
    stripped = (text or b"").strip()
    whole, _, fraction = stripped.partition(b".")
    return float(stripped) if whole.isdigit() and (not fraction or fraction.isdigit()) else None


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    if b"connection" not in dict(headers):  # one C call; on the hot path the field is rare
        return _NONE
    values = [value for name, value in headers if name == b"connection"]
    if values == [b"keep-alive"]:
        return _NONE
    return frozenset(token.strip().lower() for value in values for token in value.split(b","))


def _override(headers: Headers, last: Fields) -> Headers:
    replaced = {name for name, _ in last}
    return [*(pair for pair in headers if pair[0] not in replaced), *last]
