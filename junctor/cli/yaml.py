"""Writes JSON-like values as YAML 1.2: blocks for what has content, JSON for scalars (JSON is YAML). Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./@+-]*")
_WORDS = frozenset(["true", "false", "null", "yes", "no", "on", "off", "y", "n"])
"""Plain words that some reader of YAML takes for something else than text."""


def dump(value: Any) -> str:
    """Write a document."""
    if not value or not isinstance(value, dict | list | tuple):
        return _scalar(value) + "\n"
    return "\n".join(_block(value, "")) + "\n"


def _block(value: Any, indent: str) -> Iterator[str]:
    pairs = [(f"{_scalar(str(key))}:", entry) for key, entry in value.items()] if isinstance(value, dict) else None
    for mark, entry in pairs if pairs is not None else [("-", entry) for entry in value]:
        if not entry or not isinstance(entry, dict | list | tuple):
            yield f"{indent}{mark} {_scalar(entry)}"
        elif mark == "-":
            first, *rest = _block(entry, indent + "  ")
            yield f"{indent}- {first.lstrip()}"
            yield from rest
        else:
            yield f"{indent}{mark}"
            yield from _block(entry, indent + "  ")


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f").replace("\u2028", "\\u2028")
