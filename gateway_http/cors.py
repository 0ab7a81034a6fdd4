"""Which pages of other origins may call the edge from a browser (the Fetch standard, section 3.3): none by default.

Only origins that a setting names are ever answered with, one by one: never ``*``, never ``null``. No answer allows
credentials, so that no page can use what a browser keeps for this host; a page sends its key itself, as a header.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway_http.errors import Response
from gateway_http.limits import TOKEN
from services.runtime.exchange import Headers

METHODS = b"GET, POST, PUT, PATCH, DELETE"
MAX_AGE_SECONDS = 600
"""How long a browser may keep the answer to a preflight."""
_EXPOSED = (
    b"retry-after, server-timing, x-request-id, x-junctor-attempts, x-junctor-error-source, x-junctor-provider, "
    b"x-junctor-receipt, x-junctor-revision"
)
_NAMES_LIMIT = 4096
"""Bytes of a list of field names that is answered with."""

PROVIDERS = frozenset(
    (
        *(b"access-control-allow-origin", b"access-control-allow-credentials", b"access-control-allow-headers"),
        *(b"access-control-allow-methods", b"access-control-allow-private-network"),
        *(b"access-control-expose-headers", b"access-control-max-age", b"timing-allow-origin"),
    )
)
"""Fields by which a provider would say who may read its answers; who may read ours is for us alone to say."""


@dataclass(frozen=True)
class Cors:
    """The origins that may call."""

    origins: frozenset[bytes]
    """As browsers write them: ``https://app.example``, in lower case, without a path."""
    _other: Headers = field(default_factory=lambda: [(b"vary", b"origin")], init=False)

    def fields(self, special: Mapping[bytes, bytes]) -> Headers:
        """Return the fields to add to the answer of a request with these fields."""
        origin = special.get(b"origin", b"")
        if origin not in self.origins:
            return self._other
        allowed = (b"access-control-allow-origin", origin), (b"access-control-expose-headers", _EXPOSED)
        return [*self._other, *allowed]

    def preflight(self, method: bytes, special: Mapping[bytes, bytes]) -> Response | None:
        """Return the answer to a preflight of an allowed origin; None: it is no such request.

        It lacks what :meth:`fields` adds. The names that a page wants to send are said back: which of them mean
        something is decided when they come.
        """
        if method != b"OPTIONS" or b"access-control-request-method" not in special:
            return None
        if special.get(b"origin", b"") not in self.origins:
            return None
        headers = [
            (b"access-control-allow-methods", METHODS),
            (b"access-control-max-age", b"%d" % MAX_AGE_SECONDS),
        ]
        if names := _names(special.get(b"access-control-request-headers", b"")):
            headers.append((b"access-control-allow-headers", names))
        return Response(204, headers, b"")


def _names(text: bytes) -> bytes:
    """Return a list of field names as it was asked for; nothing if it is none."""
    names = [name.strip(b" \t") for name in text.split(b",")]
    if len(text) > _NAMES_LIMIT or any(not name or name.translate(None, TOKEN) for name in names):
        return b""
    return b", ".join(names)


def lines(fields: Headers) -> bytes:
    """Return header fields as lines."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])
