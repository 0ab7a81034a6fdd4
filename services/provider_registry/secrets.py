"""What a secret is in the store: the rule for its value, and what its ciphertext is bound to.

The encryption itself is in :mod:`services.runtime.keyring`; its names are given here again for the stores' sake.
"""

from __future__ import annotations

from services.runtime.keyring import (
    KeyFileError,
    Keyring,
    Sealed,
    ValueUnreadable,
    add_key,
    new_key_id,
    retire_keys,
    rotating,
)

__all__ = [
    "VALUE_LIMIT",
    "KeyFileError",
    "Keyring",
    "Sealed",
    "ValueUnreadable",
    "add_key",
    "identity_of",
    "new_key_id",
    "retire_keys",
    "rotating",
    "value_rule",
]

VALUE_LIMIT = 65_536
"""Bytes of a secret's value."""


def identity_of(workspace: str, name: str, secret_id: str) -> bytes:
    """Return what a ciphertext is bound to. None of the parts can hold a NUL."""
    return "\0".join(("junctor.secret.v1", workspace, name, secret_id)).encode()


def value_rule(value: str) -> str | None:
    """Return the rule that a secret's value breaks, or None. The text never has anything of the value."""
    size = len(value.encode())
    if not 1 <= size <= VALUE_LIMIT:
        return f"must have 1 to {VALUE_LIMIT} bytes"
    if not value.isprintable():
        return "must be printable text without line breaks, tabs and NUL"
    return None
