"""Compiles the one filter tree (:mod:`junctor.filters`) to SQL over a resource table.

A field that is absent is not like, not equal to and not in anything, so ``nin`` and ``Not`` take it in. Text compares
by code point, and ``like`` takes upper and lower case of ASCII letters alone for the same: on either engine.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from junctor.errors import MalformedRequest
from junctor.filters import And, Compare, Node, Not, Or, Scalar, as_time, require_known
from services.runtime.collation import bytewise

_ALWAYS = frozenset({"id", "entity_type", "name", "workspace", "created_at", "updated_at"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMES = frozenset({"created_at", "updated_at"})
LIKE_LIMIT = 1_000
"""Characters of a ``like``; databases refuse patterns of some 50,000 bytes in words of their own."""

_BOOLEANS: dict[Scalar, bool] = {True: True, "true": True, False: False, "false": False}

Column = sa.ColumnElement[Any]


def compile_filter(
    table: sa.Table,
    node: Node | None,
    *,
    fields: frozenset[str],
    kind: str,
    presence: frozenset[str] = frozenset(),
) -> sa.ColumnElement[bool]:
    """Return the WHERE clause of a filter. Raises MalformedRequest for an unknown field or a value that cannot be.

    ``presence``: fields of which ``true`` and ``false`` ask whether there is a value at all.
    """
    if node is None:
        return sa.true()
    require_known(node, fields | _ALWAYS)
    return _Compiler(table, kind, presence).compile(node)


class _Compiler:
    def __init__(self, table: sa.Table, kind: str, presence: frozenset[str]) -> None:
        self._table = table
        self._kind = kind
        self._presence = presence

    def compile(self, node: Node) -> sa.ColumnElement[bool]:
        match node:
            case And(parts):
                return sa.and_(sa.true(), *(self.compile(part) for part in parts))
            case Or(parts):
                return sa.or_(sa.false(), *(self.compile(part) for part in parts))
            case Not(part):
                return sa.not_(self.compile(part))
            case Compare():
                # A comparison with NULL is NULL; it must be false, so that its negation is true.
                return sa.func.coalesce(self._compare(node), sa.false())

    def _compare(self, node: Compare) -> sa.ColumnElement[bool]:
        column, name, value = self._column(node.field), node.field, node.value
        if isinstance(value, tuple):
            inside = sa.func.coalesce(self._any_of(column, name, value), sa.false())
            return inside if node.op == "in" else sa.not_(inside)
        if value is None:
            if node.op != "eq":
                raise MalformedRequest(f"Invalid filter: '${node.op}' of field '{name}' needs a value")
            return column.is_(None)
        if node.op == "eq" and name in self._presence and (wanted := _BOOLEANS.get(value)) is not None:
            return column.is_not(None) if wanted else column.is_(None)
        if node.op == "like":
            return self._like(column, name, str(value))
        ordered = column if name in _TIMES or node.op == "eq" else bytewise(column)
        return _OPERATORS[node.op](ordered, _converted(name, value))

    def _any_of(self, column: Column, name: str, values: tuple[Scalar, ...]) -> sa.ColumnElement[bool]:
        present = column.in_([_converted(name, value) for value in values if value is not None])
        return sa.or_(present, column.is_(None)) if None in values else present

    def _like(self, column: Column, name: str, value: str) -> sa.ColumnElement[bool]:
        if name in _TIMES:
            raise MalformedRequest(f"Invalid filter: '$like' does not apply to the time '{name}'")
        if len(value) > LIKE_LIMIT:
            raise MalformedRequest(f"Invalid filter: '$like' of field '{name}' is longer than {LIKE_LIMIT} characters")
        lowered = sa.func.lower(bytewise(column))
        # SQLite lowers ASCII letters alone, and so do bytes; a database's locale must not change what is found.
        return lowered.contains(value.encode().lower().decode(), autoescape=True)

    def _column(self, name: str) -> Column:
        if name == "entity_type":
            return sa.literal(self._kind)
        return self._table.c[name] if name in self._table.c else self._table.c.fields[name].as_string()


_OPERATORS: dict[str, Callable[[Column, Any], sa.ColumnElement[bool]]] = {
    "eq": lambda column, value: column == value,
    "lt": lambda column, value: column < value,
    "lte": lambda column, value: column <= value,
    "gt": lambda column, value: column > value,
    "gte": lambda column, value: column >= value,
}


def _converted(field: str, value: Scalar) -> str | int:
    """Return the value as the column has it: microseconds for times, text for all others."""
    if field in _TIMES:
        return (as_time(value) - _EPOCH) // timedelta(microseconds=1)
    return str(value).lower() if isinstance(value, bool) else str(value)
