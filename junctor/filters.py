"""The one filter grammar of lists: bracket query parameters, JSON and text become one tree.

The edge turns what a caller wrote into a tree and sends it as JSON (:func:`to_json`) in the ``filter`` field
of a List request; a server reads that field with :func:`parse`, which takes the JSON and the text notation,
checks its fields with :func:`require_known` and compiles the tree to SQL. Everything wrong is
:class:`~junctor.errors.MalformedRequest` (HTTP 400). Types of columns are unknown here: a value is what was
written (brackets only know strings), and the store converts it (:func:`as_time` for timestamps).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NoReturn, TypeAlias, cast, get_args

from junctor.errors import MalformedRequest

Operator = Literal["eq", "like", "lt", "lte", "gt", "gte", "in", "nin"]
Scalar: TypeAlias = str | float | int | bool | None
Value: TypeAlias = Scalar | tuple[Scalar, ...]

OPERATORS: frozenset[str] = frozenset(get_args(Operator))
LOGICAL = frozenset({"and", "or", "not"})
MAX_DEPTH = 32
"""Levels of And, Or and Not above a comparison."""
_MAX_NESTING = 2 * MAX_DEPTH + 2
"""Stack guard of the parsers, beyond what any tree of MAX_DEPTH levels needs in any notation."""
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}")
_PARTS = {("base_model", "name"): "base_model"}
"""Properties that clients may name as a part of their field: ``filter[base_model][name]=…``."""
MAX_VALUES = 1000
"""Values in a whole filter, each of which becomes one bound parameter."""


@dataclass(frozen=True, slots=True)
class Compare:
    """``field op value``; ``in``, ``nin`` have a tuple (maybe empty), ``like`` a string, the rest a scalar.

    ``like`` is a substring match that ignores case; ``eq`` with None means "is absent".
    """

    field: str
    op: Operator
    value: Value


@dataclass(frozen=True, slots=True)
class And:
    """All of two or more parts."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Any of two or more parts."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite of its part."""

    part: Node


Node: TypeAlias = Compare | And | Or | Not


def parse(text: str) -> Node | None:
    """Read the JSON notation (it begins with ``{``) or the text notation; nothing at all is None."""
    text = text.strip()
    if not text:
        return None
    if text.startswith("{"):
        return _within_limits(_from_json(text))
    return _within_limits(_Text(text).read())


def from_query(pairs: Iterable[tuple[str, str]]) -> Node | None:
    """Read each ``filter`` and ``filter[…]`` of decoded query pairs, ANDed; other keys are ignored."""
    nodes: list[Node | None] = []
    bracketed: list[tuple[list[str], str]] = []
    for key, value in pairs:
        if key == "filter":
            nodes.append(parse(value))
        elif key.startswith("filter["):
            bracketed.append((_path(key), value))
    if bracketed:
        nodes.append(_object(_from_brackets(bracketed), 0))
    return _within_limits(_join(And, [node for node in nodes if node is not None]))


def all_of(nodes: Sequence[Node]) -> Node | None:
    """Return the condition that all of these hold; None of none."""
    return _join(And, nodes)


def to_json(node: Node) -> str:
    """Write the tree as JSON, one form for each tree: ``parse(to_json(node)) == node``."""
    return json.dumps(_plain(node), ensure_ascii=False, separators=(",", ":"))


def fields(node: Node | None) -> set[str]:
    """Return the names of all fields in the tree."""
    return {leaf.field for leaf in _leaves(node)}


def require_known(node: Node | None, valid: Collection[str]) -> None:
    """Refuse the first field, by alphabet, that is not in ``valid``."""
    for name in sorted(fields(node) - set(valid)):
        raise MalformedRequest(f"Unknown filter field '{name}'. Valid fields: {sorted(valid)}")


def as_time(value: Scalar) -> datetime:
    """Read an ISO 8601 date or time as UTC; one without a zone is UTC already."""
    try:
        moment = datetime.fromisoformat(cast(str, value))
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        _refuse(f"{value!r} is not an ISO 8601 date or time")


def _refuse(why: str) -> NoReturn:
    # What the caller wrote may be long and no valid UTF-8; the message travels in a gRPC trailer.
    shown = why.encode("utf-8", "backslashreplace").decode()[:300]
    raise MalformedRequest(f"Invalid filter: {shown}") from None


def _join(kind: type[And] | type[Or], parts: Sequence[Node]) -> Node | None:
    if len(parts) < 2:
        return parts[0] if parts else None
    return kind(tuple(parts))


def _leaves(node: Node | None) -> Iterable[Compare]:
    if isinstance(node, Compare):
        yield node
    elif isinstance(node, Not):
        yield from _leaves(node.part)
    elif node is not None:
        for part in node.parts:
            yield from _leaves(part)


def _within_limits(node: Node | None) -> Node | None:
    values = sum(len(leaf.value) if isinstance(leaf.value, tuple) else 1 for leaf in _leaves(node))
    if values > MAX_VALUES:
        _refuse(f"more than {MAX_VALUES} values")
    if _depth(node) > MAX_DEPTH:
        _refuse(f"nested more than {MAX_DEPTH} deep")
    return node


def _depth(node: Node | None) -> int:
    if isinstance(node, Not):
        return 1 + _depth(node.part)
    return 1 + max(_depth(part) for part in node.parts) if isinstance(node, And | Or) else 0


def _plain(node: Node) -> dict[str, object]:
    if isinstance(node, Compare):
        value = list(node.value) if isinstance(node.value, tuple) else node.value
        return {node.field: {f"${node.op}": value}}
    if isinstance(node, Not):
        return {"$not": _plain(node.part)}
    return {"$and" if isinstance(node, And) else "$or": [_plain(part) for part in node.parts]}


# JSON, and brackets brought into the same shape


def _from_json(text: str) -> Node | None:
    try:
        value = json.loads(text, parse_constant=lambda name: _refuse(f"{name} is not JSON"))
    except (ValueError, RecursionError) as error:
        where = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        _refuse(f"not valid JSON{where}")
    return _object(value, 0)


def _object(value: object, depth: int) -> Node | None:
    if depth > _MAX_NESTING:
        _refuse(f"nested more than {MAX_DEPTH} deep")
    if not isinstance(value, dict):
        _refuse("a condition must be an object")
    for key in value:
        if key.startswith("$") or key in LOGICAL:
            return _logical(_alone(key, value), value[key], depth)
    return _join(And, [_condition(name, operand, depth) for name, operand in value.items()])


def _alone(key: str, siblings: Collection[str]) -> str:
    if key.removeprefix("$") not in LOGICAL:
        _refuse(f"unknown operator '{key}'")
    if len(siblings) > 1:
        _refuse(f"the logical operator '{key}' must stand alone, not next to other keys")
    return key.removeprefix("$")


def _logical(name: str, operand: object, depth: int) -> Node:
    if name == "not":
        return Not(_required(_object(operand, depth + 1), name))
    if not isinstance(operand, list):
        _refuse(f"'${name}' needs a list of conditions")
    parts = [_required(_object(part, depth + 1), name) for part in operand]
    return _required(_join(And if name == "and" else Or, parts), name)


def _required(node: Node | None, name: str) -> Node:
    if node is None:
        _refuse(f"'${name}' has an empty condition")
    return node


def _condition(field: str, operand: object, depth: int) -> Node:
    """Read what one field must be: a value, comparisons that all hold, or one logical operator over such."""
    if depth > _MAX_NESTING:
        _refuse(f"nested more than {MAX_DEPTH} deep")
    if not isinstance(operand, dict):
        return _compare(field, "eq", operand)
    for key in operand:
        if key.removeprefix("$") in LOGICAL:
            return _logical_of(field, _alone(key, operand), operand[key], depth + 1)
    node = _join(And, [_part(field, key, value, depth) for key, value in operand.items()])
    if node is None:
        _refuse(f"field '{field}' has no operator")
    return node


def _part(field: str, key: str, value: object, depth: int) -> Node:
    if (whole := _PARTS.get((field, key))) is not None:
        return _condition(whole, value, depth + 1)
    return _compare(field, key.removeprefix("$"), value)


def _logical_of(field: str, name: str, operand: object, depth: int) -> Node:
    if name == "not":
        return Not(_condition(field, operand, depth))
    if not isinstance(operand, list):
        _refuse(f"'${name}' needs a list of conditions")
    parts = [_condition(field, part, depth) for part in operand]
    return _required(_join(And if name == "and" else Or, parts), name)


def _compare(field: str, op: str, value: object) -> Node:
    """Build one comparison; a list where a scalar is due means "any of"."""
    if op not in OPERATORS:
        _refuse(f"unknown operator '{op}' of field '{field}'")
    if not _FIELD.fullmatch(field):
        _refuse(f"{field!r} is not a field name")
    name = cast(Operator, "in" if op == "eq" and isinstance(value, list) else op)
    if name in ("in", "nin"):
        listed = _split(value) if isinstance(value, str) else value
        many = listed if isinstance(listed, list) else [listed]
        return Compare(field, name, tuple(_scalar(field, one) for one in many))
    if isinstance(value, list):
        return _required(_join(Or, [_compare(field, op, one) for one in value]), op)
    if op == "like" and not isinstance(value, str):
        _refuse(f"'$like' of field '{field}' needs text")
    return Compare(field, name, _scalar(field, value))


def _split(value: str) -> list[object]:
    """Read several values: a JSON list, or texts with commas between them."""
    if value.startswith("["):
        with suppress(ValueError, RecursionError):
            listed = json.loads(value)
            return listed if isinstance(listed, list) and listed else [value]
    return [part.strip() for part in value.split(",")]


def _scalar(field: str, value: object) -> Scalar:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int) and abs(value) >= 2**63:
        _refuse(f"the number of field '{field}' is too large")
    if isinstance(value, float) and not math.isfinite(value):
        _refuse(f"the number of field '{field}' must be finite")
    if value is None or isinstance(value, bool | int | float):
        return value
    _refuse(f"the value of field '{field}' must be text, a number, true, false or null")


def _text(value: str) -> str:
    """Refuse what neither a protobuf string nor a database text can hold: NUL and lone surrogates."""
    if re.search("[\0\ud800-\udfff]", value):
        _refuse("text must be Unicode without NUL")
    return value


_Tree: TypeAlias = "dict[str, _Tree | list[object]]"


def _from_brackets(pairs: Iterable[tuple[list[str], str]]) -> dict[str, object]:
    """Nest ``filter[a][b]=v`` as ``{"a": {"b": v}}``; a repeated key becomes a list."""
    tree: _Tree = {}
    for path, value in pairs:
        *outer, last = path
        last = last[1:] if outer and last[:1] == "$" and last[1:] in OPERATORS else last
        level = tree
        for key in outer:
            inner = level.setdefault(key, {})
            if isinstance(inner, list):
                _refuse(f"'{key}' has both a value and operators")
            level = inner
        leaf = level.setdefault(last, [])
        if isinstance(leaf, dict):
            _refuse(f"'{last}' has both a value and operators")
        leaf.extend([value] if outer and last in OPERATORS - {"in", "nin"} else _split(value))
    return _settled(tree)


def _settled(tree: _Tree) -> dict[str, object]:
    """Give single values as scalars, and the alternatives below a logical operator as a list.

    ``filter[$or][0][name]=a`` numbers them; without numbers each key is one of them.
    """
    done: dict[str, object] = {}
    for key, inner in tree.items():
        if isinstance(inner, list):
            done[key] = inner if len(inner) > 1 else inner[0]
        elif key.removeprefix("$") in ("and", "or"):
            done[key] = [part for name, branch in _settled(inner).items() for part in _alternatives(name, branch)]
        else:
            done[key] = _settled(inner)
    return done


def _alternatives(name: str, branch: object) -> list[object]:
    if name.isdecimal():
        return [branch]
    if name == "" and isinstance(branch, dict):
        return [{field: operand} for field, operand in branch.items()]
    return [{name: branch}]


def _path(key: str) -> list[str]:
    if not re.fullmatch(r"filter(\[[^\[\]]*\])+", key):
        _refuse(f"unbalanced brackets in '{key}'")
    path = key[len("filter[") : -1].split("][")
    if len(path) > _MAX_NESTING:
        _refuse(f"nested more than {MAX_DEPTH} deep")
    return path


# Text: name:"gpt-4o", name~"llama", -name:"x", created_at>"2026-01-01", AND, OR, NOT, ( ), [NOT] IN [..]

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<quoted>"(?:[^"\\]|\\.)*")
      | (?P<sign>>=|<=|[><:~()\[\],])
      | (?P<minus>-(?=[A-Za-z_(]))
      | (?P<word>\d{4}-\d\d-\d\dT[\d:.+Z-]+|[^\s"<>:~()\[\],]+)
    )""",
    re.VERBOSE,
)
_SIGNS: dict[str, str] = {":": "eq", "~": "like", "<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


class _Text:
    """Recursive descent: or > and > not > comparison. Two conditions side by side are ANDed.

    Letter case of the words between them does not matter.
    """

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0

    def read(self) -> Node:
        node = self._or(0)
        if self._at < len(self._tokens):
            _refuse(f"unexpected {self._shown()}")
        return node

    def _or(self, depth: int) -> Node:
        if depth > _MAX_NESTING:
            _refuse(f"nested more than {MAX_DEPTH} deep")
        parts = [self._and(depth)]
        while self._word("OR"):
            parts.append(self._and(depth))
        return _required(_join(Or, parts), "or")

    def _and(self, depth: int) -> Node:
        parts = [self._not(depth)]
        while self._word("AND") or self._begins_condition():
            parts.append(self._not(depth))
        return _required(_join(And, parts), "and")

    def _not(self, depth: int) -> Node:
        if depth > _MAX_NESTING:
            _refuse(f"nested more than {MAX_DEPTH} deep")
        if self._take("minus", "-") or self._word("NOT"):
            return Not(self._not(depth + 1))
        if self._take("sign", "("):
            node = self._or(depth + 1)
            self._expect(")")
            return node
        return self._comparison()

    def _comparison(self) -> Node:
        field = self._next("word", "a field name")
        if self._word("NOT"):
            if not self._word("IN"):
                _refuse(f"expected IN after NOT, found {self._shown()}")
            return _compare(field, "nin", self._list())
        if self._word("IN"):
            return _compare(field, "in", self._list())
        sign = self._next("sign", f"an operator after '{field}'")
        if sign not in _SIGNS:
            _refuse(f"expected an operator after '{field}', found '{sign}'")
        return _compare(field, _SIGNS[sign], self._value())

    def _list(self) -> list[Scalar]:
        self._expect("[")
        values: list[Scalar] = []
        while not self._take("sign", "]"):
            if values:
                self._expect(",")
            values.append(self._value())
        return values

    def _value(self) -> Scalar:
        """Quoted or bare text; bare ``null`` is None."""
        kind, text = self._peek()
        if kind not in ("quoted", "word", "minus"):
            _refuse(f"expected a value, found {self._shown()}")
        self._at += 1
        if kind == "minus":
            return "-" + self._next("word", "a value")
        if kind == "quoted":
            return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
        return None if text.lower() == "null" else text

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _take(self, kind: str, text: str) -> bool:
        found = self._peek() == (kind, text)
        self._at += found
        return found

    def _word(self, keyword: str) -> bool:
        kind, text = self._peek()
        found = (kind, text.upper()) == ("word", keyword)
        self._at += found
        return found

    def _begins_condition(self) -> bool:
        kind, text = self._peek()
        return kind == "minus" or (kind == "word" and text.upper() != "OR") or (kind, text) == ("sign", "(")

    def _next(self, kind: str, what: str) -> str:
        found, text = self._peek()
        if found != kind:
            _refuse(f"expected {what}, found {self._shown()}")
        self._at += 1
        return text

    def _expect(self, sign: str) -> None:
        if not self._take("sign", sign):
            _refuse(f"expected '{sign}', found {self._shown()}")

    def _shown(self) -> str:
        kind, text = self._peek()
        return "the end" if kind == "end" else f"'{text}'"


def _tokens(text: str) -> Iterable[tuple[str, str]]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            _refuse(f"cannot read it from character {at}")
        yield cast(str, match.lastgroup), match[cast(str, match.lastgroup)]
        at = match.end()
