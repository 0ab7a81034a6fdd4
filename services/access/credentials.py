"""Which credential a call shows: of ``Authorization: Bearer``, ``x-api-key`` and ``api-key``, in headers or metadata.

Clients of the OpenAI, Anthropic and Azure kinds each have one of them. Two that say the same are one; two that differ
are none, because which of them counts would be a guess.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from junctor.errors import Unauthenticated
from services.access.keys import LONGEST

AUTHORIZATION: Final = b"authorization"
FIELDS: Final = frozenset((AUTHORIZATION, b"x-api-key", b"api-key"))
"""Lower-case names of the fields that carry a credential."""

MISSING = "Unauthorized"
"""Text for a call without a credential (the HTTP contract's)."""
INVALID = "Invalid or expired token"
"""Text for a credential that is not good (the HTTP contract's): why is nobody's business who does not have it."""


def missing() -> Unauthenticated:
    """Make the error for a call without a credential."""
    return Unauthenticated(MISSING)


def invalid() -> Unauthenticated:
    """Make the error for a credential that is not good."""
    return Unauthenticated(INVALID)


def credential_of(fields: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return the credential in header fields (lower-case names), None if there is none.

    Raises Unauthenticated for two that differ, another scheme than ``Bearer``, and what no credential looks like.
    """
    found: str | None = None
    for name, value in fields:
        if name not in FIELDS:
            continue
        shown = _bearer(value) if name == AUTHORIZATION else value
        if not shown or len(shown) > LONGEST or not shown.isascii() or (found is not None and shown.decode() != found):
            raise invalid()
        found = shown.decode()
    return found


def required(fields: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the credential in header fields. Raises Unauthenticated, also if there is none."""
    credential = credential_of(fields)
    if credential is None:
        raise missing()
    return credential


def _bearer(value: bytes) -> bytes:
    scheme, _, token = value.partition(b" ")
    return token.strip(b" ") if scheme.lower() == b"bearer" else b""
