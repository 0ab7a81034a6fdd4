"""Compiles the one filter tree (:mod:`junctor.filters`) to SQL over a resource table."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from junctor.errors import MalformedRequest
from junctor.filters import And, Compare, Node, Not, Or

_ALWAYS = frozenset({"id", "entity_type", "name", "workspace", "created_at", "updated_at"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMES = frozenset({"created_at", "updated_at"})

Column = sa.ColumnElement[Any]


def compile_filter(table: sa.Table, node: Node | None, *, fields: frozenset[str], kind: str) -> sa.ColumnElement[bool]:
    """Return the WHERE clause of a filter. Raises MalformedRequest for an unknown field or a value that cannot be."""
    if node is None:
        return sa.true()
    return _Compiler(table, fields | _ALWAYS, kind).compile(node)


class _Compiler:
    def __init__(self, table: sa.Table, fields: frozenset[str], kind: str) -> None:
        self._table = table
        self._fields = fields
        self._kind = kind

    def compile(self, node: Node) -> sa.ColumnElement[bool]:
        match node:
            case And(parts):
                return sa.and_(sa.true(), *(self.compile(part) for part in parts))
            case Or(parts):
                return sa.or_(sa.false(), *(self.compile(part) for part in parts))
            case Not(part):
                # A NULL comparison is false, so its negation must be true.
                return sa.not_(sa.func.coalesce(self.compile(part), sa.false()))
            case Compare():
                return self._compare(node)

    def _compare(self, node: Compare) -> sa.ColumnElement[bool]:
        if node.field not in self._fields:
            valid = sorted(self._fields)
            raise MalformedRequest(f"Unknown filter field '{node.field}'. Valid fields: {valid}")
        column = self._column(node.field)
        convert = _microseconds if node.field in _TIMES else _text
        if node.op in ("in", "nin"):
            values = node.value if isinstance(node.value, tuple) else (node.value,)
            inside = sa.func.coalesce(column.in_([convert(v, node.field) for v in values]), sa.false())
            return inside if node.op == "in" else sa.not_(inside)
        if node.value is None:
            return column.is_(None)
        if node.op == "like":
            return sa.cast(column, sa.String).icontains(str(node.value), autoescape=True)
        return _OPERATORS[node.op](column, convert(node.value, node.field))

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


def _text(value: object, _field: str) -> str | None:
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _microseconds(value: object, field: str) -> int:
    """Read an ISO 8601 time; without a zone it is UTC (the HTTP contract's rule)."""
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        raise MalformedRequest(f"Invalid filter value for '{field}': must be an ISO 8601 date or time") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1)
