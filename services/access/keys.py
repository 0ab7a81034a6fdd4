"""The text of API keys and what is stored of them.

A key is ``jnct_`` and 43 base58 characters: 251 random bits, so one round of SHA-256 is all that keeping it takes. Of a
stored hash ``<scheme>:<digest>`` the scheme says how it was made: another one can be added beside the first.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
KEY_PREFIX = "jnct_"
_RANDOM_CHARACTERS = 43
SHOWN_CHARACTERS = len(KEY_PREFIX) + 6
"""How much of a key is kept to recognise it by; 216 random bits stay unknown."""
SCHEME = "v1"
LONGEST = 8192
"""Characters of a credential that is looked at: tokens with many groups are long."""


def new_key() -> str:
    """Draw the value of a key."""
    return KEY_PREFIX + "".join(secrets.choice(_BASE58) for _ in range(_RANDOM_CHARACTERS))


def shown_prefix(value: str) -> str:
    """Return what may be shown of a key: its first characters; nothing of a short one that somebody chose."""
    return value[:SHOWN_CHARACTERS] if value.startswith(KEY_PREFIX) else ""


def hash_of(value: str) -> str:
    """Return what is stored of a key, by the newest scheme."""
    return f"{SCHEME}:{hashlib.sha256(value.encode()).hexdigest()}"


def hashes_of(value: str) -> Iterator[str]:
    """Yield what may be stored of a key, by every scheme, the newest first."""
    yield hash_of(value)


def is_key(value: str) -> bool:
    """Tell a value that looks like one of :func:`new_key`: worth asking whether it was just made."""
    body = value[len(KEY_PREFIX) :]
    return value.startswith(KEY_PREFIX) and len(body) == _RANDOM_CHARACTERS and all(c in _BASE58 for c in body)
