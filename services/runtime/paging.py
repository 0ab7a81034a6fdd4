"""Pages of a list: size, position, order. One rule for every resource."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from junctor.errors import FieldViolation, InvalidField
from junctor.filters import Node, fields
from services.runtime.collation import bytewise

MAX_PAGE_SIZE = 1_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What a list asks for, still unchecked but for the parsed filter."""

    workspace: str = ""
    """Empty or ``-``: every workspace."""
    page_size: int = 0
    page_token: str = ""
    skip: int = 0
    order_by: str = ""
    filter: Node | None = None

    @property
    def filters_workspace(self) -> bool:
        """A filter on ``workspace`` takes the place of the workspace asked in."""
        return self.filter is not None and "workspace" in fields(self.filter)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of results."""

    items: Sequence[T]
    next_page_token: str
    total_size: int


@dataclass(frozen=True, slots=True)
class Slice:
    """Where a page lies in the ordered results."""

    offset: int
    size: int

    def next_token(self, total: int) -> str:
        """Return the token of the page after this one; empty when this is the last."""
        end = self.offset + self.size
        return base64.urlsafe_b64encode(b"o:%d" % end).decode() if end < total else ""


def page_of(query: ListQuery, *, default_size: int) -> Slice:
    """Check size, token and skip. Raises InvalidField naming every bad one."""
    bad: list[FieldViolation] = []
    if not 0 <= query.page_size <= MAX_PAGE_SIZE:
        bad.append(FieldViolation("page_size", f"must be between 1 and {MAX_PAGE_SIZE}"))
    if query.skip < 0:
        bad.append(FieldViolation("skip", "must not be negative"))
    offset = _offset(query.page_token)
    if offset is None:
        bad.append(FieldViolation("page_token", "is not a token of a page before"))
    if bad or offset is None:
        raise InvalidField.of(*bad)
    return Slice(offset + query.skip, query.page_size or default_size)


def _offset(token: str) -> int | None:
    if not token:
        return 0
    try:
        kind, _, number = base64.urlsafe_b64decode(token.encode()).partition(b":")
    except (ValueError, binascii.Error):
        return None
    return int(number) if kind == b"o" and number.isdigit() and len(number) < 10 else None


def order_clause(table: sa.Table, order_by: str, sortable: frozenset[str]) -> list[sa.ColumnElement[Any]]:
    """Compile ``field`` or ``-field`` to an ORDER BY that ties by name. Raises InvalidField."""
    descending, name = order_by.startswith("-"), order_by.removeprefix("-")
    if name not in sortable:
        allowed = ", ".join(f"'{sign}{field}'" for field in sorted(sortable) for sign in ("", "-"))
        raise InvalidField.of(FieldViolation("order_by", f"must be one of {allowed}"))
    column: sa.ColumnElement[Any] = table.c[name] if name in table.c else table.c.fields[name].as_string()
    key = bytewise(column) if isinstance(column.type, sa.String) else column
    first = key.desc() if descending else key.asc()
    return [first, bytewise(table.c.name).asc(), bytewise(table.c.workspace).asc()]
