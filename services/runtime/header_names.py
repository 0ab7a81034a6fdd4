"""Which header a provider's configuration may never set: one rule for extra headers and for the credential's form.

Framing and hop-by-hop fields belong to the connection, ``x-nmp-*`` and ``x-junctor-*`` to the gateway.
"""

from __future__ import annotations

import re

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""A field name (RFC 9110, 5.6.2)."""

CREDENTIALS = frozenset({"authorization", "cookie"})
"""Never among extra headers: a credential comes from a secret."""

_RESERVED = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "te",
        "trailer",
        "trailers",
        "transfer-encoding",
        "upgrade",
    }
)
_RESERVED_PREFIXES = ("proxy-", "x-nmp-", "x-junctor-")


def is_reserved(name: str) -> bool:
    """Tell whether only the gateway sets this header; letter case does not matter."""
    lower = name.lower()
    return lower in _RESERVED or lower.startswith(_RESERVED_PREFIXES)
