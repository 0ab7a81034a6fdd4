"""Checks that every registry makes on a write. Each collects every bad field before it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from junctor import names
from junctor.errors import FieldViolation, InvalidField, MalformedRequest

DESCRIPTION_LIMIT = 1_000
"""Characters of a description (HTTP contract, fields of ours)."""
JSON_LIMIT = 1 << 20
"""Bytes of a free-form JSON field."""
NESTING_LIMIT = 128
"""Levels of a free-form JSON field: any that is taken must also be read by every parser behind us."""

LABELS_LIMIT = 32
LABEL_VALUE_LIMIT = 255
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-_./]{0,62}")


class Violations:
    """Collects bad fields; :meth:`done` raises them all at once."""

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []
        self._malformed: list[str] = []

    def add(self, field: str, rule: str) -> None:
        """Note one bad field and the rule that it breaks."""
        self._found.append(FieldViolation(field, rule))

    def malformed(self, text: str) -> None:
        """Note what makes the request one of those that are refused in these words, not by the name of a field."""
        self._malformed.append(text)

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

    def labels(self, value: Mapping[str, str]) -> None:
        """The labels of a resource."""
        if len(value) > LABELS_LIMIT:
            self.add("labels", f"must be at most {LABELS_LIMIT}")
        for name, text in value.items():
            if not _LABEL.fullmatch(name):
                self.add("labels", f"must have names by the rule {_LABEL.pattern}")
            elif len(text) > LABEL_VALUE_LIMIT or not text.isprintable():
                self.add(f"labels.{name}", f"must be at most {LABEL_VALUE_LIMIT} printable characters")

    def json(self, field: str, value: bytes, *, kind: type = dict) -> None:
        """A JSON object (``kind=dict``), array (``list``) or any JSON value (``object``) of at most 1 MiB."""
        if len(value) > JSON_LIMIT:
            self.add(field, f"must be at most {JSON_LIMIT} bytes of JSON")
            return
        try:
            parsed = _loads(value)
        except (ValueError, RecursionError):
            self.add(field, "must be JSON")
            return
        if not isinstance(parsed, kind):
            self.add(field, "must be a JSON object" if kind is dict else "must be a JSON array")
        elif nested_beyond(parsed, NESTING_LIMIT):
            self.add(field, f"must be nested at most {NESTING_LIMIT} deep")

    def done(self) -> None:
        """Raise everything that was noted: MalformedRequest if that has words of its own, else InvalidField."""
        if self._malformed:
            rules = [f"{violation.field}: {violation.rule}" for violation in self._found]
            raise MalformedRequest(
                " ".join([*self._malformed, "; ".join(rules)]).strip(), violations=tuple(self._found)
            )
        if self._found:
            raise InvalidField.of(*self._found)


def nested_beyond(value: Any, most: int) -> bool:
    """Tell whether a JSON value has more than ``most`` levels, without recursion."""
    level = [value]
    for _ in range(most):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _loads(value: bytes) -> Any:
    """Parse JSON that can be written as JSON again. Raises ValueError, RecursionError.

    Python reads more than RFC 8259 has (NaN, UTF-16) and some that no UTF-8 can hold: ``1e999``, lone surrogates.
    """
    parsed = json.loads(value.decode())
    json.dumps(parsed, ensure_ascii=False, allow_nan=False).encode()
    return parsed
