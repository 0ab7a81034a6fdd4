"""Checks that every registry makes on a write. Each collects every bad field before it refuses."""

from __future__ import annotations

import json

from junctor import names
from junctor.errors import FieldViolation, InvalidField

DESCRIPTION_LIMIT = 1_000
"""Characters of a description (HTTP contract, fields of ours)."""
JSON_LIMIT = 1 << 20
"""Bytes of a free-form JSON field."""


def _refuse(constant: str) -> None:
    raise ValueError(constant)


class Violations:
    """Collects bad fields; :meth:`done` raises them all at once."""

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []

    def add(self, field: str, rule: str) -> None:
        """Note one bad field and the rule that it breaks."""
        self._found.append(FieldViolation(field, rule))

    def name(self, field: str, value: str) -> None:
        """A resource name."""
        if not names.is_name(value):
            self.add(field, names.NAME_RULE)

    def description(self, value: str) -> None:
        """A description."""
        self.text("description", value, limit=DESCRIPTION_LIMIT)

    def text(self, field: str, value: str, *, limit: int) -> None:
        """A text of at most ``limit`` characters."""
        if len(value) > limit:
            self.add(field, f"must be at most {limit} characters")
        elif "\x00" in value:
            self.add(field, "must not contain NUL")

    def json(self, field: str, value: bytes, *, kind: type = dict) -> None:
        """A JSON object (``kind=dict``), array (``list``) or any JSON value (``object``) of at most 1 MiB."""
        if len(value) > JSON_LIMIT:
            self.add(field, f"must be at most {JSON_LIMIT} bytes of JSON")
            return
        try:
            parsed = json.loads(value.decode(), parse_constant=_refuse)  # neither UTF-16 nor NaN
        except (ValueError, RecursionError):
            self.add(field, "must be JSON")
            return
        if not isinstance(parsed, kind):
            self.add(field, "must be a JSON object" if kind is dict else "must be a JSON array")

    def done(self) -> None:
        """Raise InvalidField if anything was noted."""
        if self._found:
            raise InvalidField.of(*self._found)
