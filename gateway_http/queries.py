"""Reads the query parameters of lists: ``page``, ``page_size``, ``sort`` and the three notations of ``filter``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway_http.resources import Resource
from gateway_http.translate import BadBody, one_of
from junctor import filters

MAX_PAGE_SIZE = 1000
_MAX_SKIP = 2**31 - 1
"""``skip`` travels as int32; no list is that long, so a page beyond it is past the end either way."""

_FLAGS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class Listing:
    """What a list asks for. ``filter`` is canonical JSON, empty for none."""

    workspace: str
    page: int
    page_size: int
    sort: str
    filter: str

    @property
    def skip(self) -> int:
        """How many results come before the page."""
        return min((self.page - 1) * self.page_size, _MAX_SKIP)

    @property
    def arguments(self) -> dict[str, Any]:
        """The fields that every List request has but ``workspace``."""
        return {
            "page_size": self.page_size,
            "skip": self.skip,
            "order_by": self.sort,
            "filter": self.filter,
        }


def read(resource: Resource, workspace: str, pairs: Sequence[tuple[str, str]]) -> Listing:
    """Read decoded query pairs. Raises BadBody (422) for numbers and sort, MalformedRequest (400) for the filter."""
    given = dict(pairs)
    problems: list[tuple[str, str, str]] = []
    page = _number(given, "page", default=1, most=None, problems=problems)
    size = _number(given, "page_size", default=resource.page_size, most=MAX_PAGE_SIZE, problems=problems)
    sort = given.get("sort", resource.default_sort)
    if sort.removeprefix("-") not in resource.sorts:
        problems.append(("query.sort", "enum", f"Input should be {one_of(sort_values(resource))}"))
    added = [node for name, node in resource.flags.items() if _flag(given, name, problems=problems)]
    if problems:
        raise BadBody(problems)
    asked = filters.from_query(pairs)
    node = filters.all_of([*added, asked] if asked is not None else added)
    return Listing(workspace, page, size, sort, filters.to_json(node) if node is not None else "")


def flag(pairs: Sequence[tuple[str, str]], name: str, *, default: str = "false") -> bool:
    """Read one parameter that is true or false. Raises BadBody (422)."""
    problems: list[tuple[str, str, str]] = []
    found = _flag({name: default, **dict(pairs)}, name, problems=problems)
    if problems:
        raise BadBody(problems)
    return found


def sort_values(resource: Resource) -> list[str]:
    """Return every value that ``sort`` takes."""
    return [sign + name for name in resource.sorts for sign in ("", "-")]


def _flag(given: dict[str, str], name: str, *, problems: list[tuple[str, str, str]]) -> bool:
    text = given.get(name, "false")
    if text.lower() not in _FLAGS:
        rule = "Input should be a valid boolean, unable to interpret input"
        problems.append((f"query.{name}", "bool_parsing", rule))
    return _FLAGS.get(text.lower(), False)


def _number(
    given: dict[str, str], name: str, *, default: int, most: int | None, problems: list[tuple[str, str, str]]
) -> int:
    text = given.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        rule = "Input should be a valid integer, unable to parse string as an integer"
        problems.append((f"query.{name}", "int_parsing", rule))
        return default
    number = int(text)
    if number < 1:
        problems.append((f"query.{name}", "greater_than_equal", "Input should be greater than or equal to 1"))
    elif most is not None and number > most:
        problems.append((f"query.{name}", "less_than_equal", f"Input should be less than or equal to {most}"))
    return number
