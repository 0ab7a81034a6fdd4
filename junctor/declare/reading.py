"""YAML and JSON as plain values that know their lines.

YAML 1.2's core schema, so that ``no``, ``1:30`` and dates stay text; merge keys (``<<``) as people use them.
Refused with their line: duplicate keys, keys that are no text, tags, what refers to itself, and anchors that
grow to more than :data:`LIMIT` values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from junctor.declare.problems import BadFiles, Place, Problem

LIMIT: Final = 200_000
"""Values of one file, with what its anchors repeat."""

Path = tuple[str | int, ...]

_TEXT = "tag:yaml.org,2002:str"
_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_SCALARS: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = (
    (re.compile(r"(?:null|Null|NULL|~|)"), lambda _: None),
    (re.compile(r"(?:true|True|TRUE)"), lambda _: True),
    (re.compile(r"(?:false|False|FALSE)"), lambda _: False),
    (re.compile(r"[-+]?[0-9]{1,4000}"), int),
    (re.compile(r"0o[0-7]{1,1000}"), lambda text: int(text[2:], 8)),
    (re.compile(r"0x[0-9a-fA-F]{1,1000}"), lambda text: int(text[2:], 16)),
    (re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?"), float),
)
"""Plain scalars of the core schema (YAML 1.2.2, 10.3.2), without infinity and NaN, which JSON has not."""


@dataclass(frozen=True, slots=True)
class Source:
    """One document: its value, and the line of every path in it (counted from 1)."""

    file: str
    number: int
    value: Any
    lines: Mapping[Path, int] = field(default_factory=dict)

    def place(self, path: Path = ()) -> Place:
        """Return where ``path`` is; of a path that is not there, where its nearest parent is."""
        while path and path not in self.lines:
            path = path[:-1]
        return Place(self.file, self.number, self.lines.get(path, 0))


def read(text: str, file: str) -> list[Source]:
    """Read all documents of a file; empty ones are left out, a list is one document for each entry. Raises BadFiles."""
    if text.lstrip("\ufeff \t\r\n").startswith(("{", "[")) and (found := _json(text)) is not None:
        return _split(_with_lines(found, _lines(text, file), file))
    return _split(_yaml(text.removeprefix("\ufeff"), file))


def _json(text: str) -> list[Source] | None:
    try:
        value = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return None  # the reader of YAML says where and why
    return [Source("", 1, value)]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _lines(text: str, file: str) -> Mapping[Path, int]:
    try:
        return _yaml(text, file)[0].lines
    except BadFiles:
        return {}  # JSON that is no YAML (tabs)


def _with_lines(found: list[Source], lines: Mapping[Path, int], file: str) -> list[Source]:
    return [Source(file, one.number, one.value, lines) for one in found]


def _split(sources: list[Source]) -> list[Source]:
    found: list[Source] = []
    for source in sources:
        if isinstance(source.value, list):
            for index, entry in enumerate(source.value):
                lines = {path[1:]: line for path, line in source.lines.items() if path[:1] == (index,)}
                found.append(Source(source.file, len(found) + 1, entry, lines))
        elif source.value is not None:
            found.append(Source(source.file, len(found) + 1, source.value, source.lines))
    return found


class _Loader(yaml.SafeLoader):
    """Composes nodes and resolves nothing: what a plain scalar means is decided here."""


_Loader.yaml_implicit_resolvers = {}


def _yaml(text: str, file: str) -> list[Source]:
    found: list[Source] = []
    try:
        for number, node in enumerate(yaml.compose_all(text, _Loader), 1):
            builder = _Builder(file, number)
            found.append(Source(file, number, builder.value(node, ()), builder.lines))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = 0 if mark is None else mark.line + 1
        raise BadFiles([Problem(Place(file, len(found) + 1, line), "", f"is no YAML: {error.problem}")]) from None
    except yaml.YAMLError as error:
        said = " ".join(str(getattr(error, "reason", "") or "it cannot be read").split())
        raise BadFiles([Problem(Place(file), "", f"is no YAML: {said}")]) from None
    except RecursionError:
        raise BadFiles([Problem(Place(file), "", "is nested too deep")]) from None
    return found


class _Builder:
    """Makes values of nodes and notes their lines."""

    def __init__(self, file: str, number: int) -> None:
        self.lines: dict[Path, int] = {}
        self._file = file
        self._number = number
        self._count = 0
        self._open: set[int] = set()

    def value(self, node: yaml.Node | None, path: Path) -> Any:
        if node is None:
            return None
        self._spend(node)
        if id(node) in self._open:
            raise self._bad(node, "refers to itself")
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if node.tag not in _COLLECTIONS:
            raise self._bad(node, f"has the tag {node.tag}; only plain values are read")
        self._open.add(id(node))
        made: Any = (
            {key: self.value(entry, (*path, key)) for key, entry in self._pairs(node, path)}
            if isinstance(node, yaml.MappingNode)
            else [self.value(entry, (*path, index)) for index, entry in enumerate(node.value)]
        )
        self._open.discard(id(node))
        return made

    def _spend(self, node: yaml.Node) -> None:
        """Count a value, so that what repeats others, and merges of merges, stay bounded."""
        self._count += 1
        if self._count > LIMIT:
            raise self._bad(node, f"has more than {LIMIT:,} values once its anchors are repeated")

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag != _TEXT:
            raise self._bad(node, f"has the tag {node.tag}; only plain values are read")
        text = str(node.value)
        if node.style is not None:
            return text
        for pattern, read_as in _SCALARS:
            if pattern.fullmatch(text):
                return read_as(text)
        return text

    def _pairs(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[str, yaml.Node]]:
        own: dict[str, yaml.Node] = {}
        merged: dict[str, yaml.Node] = {}
        for key, entry in node.value:
            if not isinstance(key, yaml.ScalarNode) or not isinstance(self._scalar(key), str):
                raise self._bad(key, "must be text, as all keys are; put it in quotes")
            if key.value == "<<" and key.style is None:
                merged |= {name: one for name, one in self._merged(entry, path).items() if name not in merged}
            elif key.value in own:
                raise self._bad(key, f"has the key '{key.value}' twice")
            else:
                own[key.value] = entry
                self.lines[(*path, key.value)] = key.start_mark.line + 1
        yield from {**merged, **own}.items()

    def _merged(self, node: yaml.Node, path: Path) -> dict[str, yaml.Node]:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found: dict[str, yaml.Node] = {}
        for source in sources:
            self._spend(source)
            if not isinstance(source, yaml.MappingNode) or id(source) in self._open:
                raise self._bad(node, "must be a mapping, or a list of them, to be merged")
            self._open.add(id(source))
            for name, one in self._pairs(source, path):
                self._spend(source)
                found.setdefault(name, one)
            self._open.discard(id(source))
        return found

    def _bad(self, node: yaml.Node, rule: str) -> BadFiles:
        return BadFiles([Problem(Place(self._file, self._number, node.start_mark.line + 1), "", rule)])
