"""Documents: what a file says of one resource. The keys are those of the REST object, and ``kind``.

A secret's value is named, not written: ``value_from: {env: NAME}`` or ``{file: PATH}`` (relative to the file);
``value: text`` only where the caller allows it. Without either the value that is there stays.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from junctor import names
from junctor.declare.kinds import BY_NAME, SECRET, Kind
from junctor.declare.problems import BadFiles, Place, Problem
from junctor.declare.reading import Path, Source

API_VERSION = "junctor.v1"

_DATED = ("created_at", "created_by", "updated_at", "updated_by", "last_attempt", "next_attempt")
_STATE = ("status", "status_message", "served_models", "autoprovisioned", "auth_context", "adapters")
_SERVED = frozenset(["id", "entity_id", "parent", *_DATED, *_STATE])
"""Keys of REST objects that the server sets."""
_COMMON = ("kind", "api_version", "name", "workspace", "labels", "resource_version")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Key = tuple[str, str, str]
"""Kind, workspace (empty for workspaces) and name."""


@dataclass(frozen=True, slots=True)
class ValueSource:
    """Where a secret's value is: ``env``, ``file`` or ``inline``. Its ``repr`` does not show an inline value."""

    kind: str
    given: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Document:
    """One resource as a file wants it. ``fields`` has what was given, without nulls."""

    kind: Kind
    name: str
    workspace: str
    fields: Mapping[str, Any]
    labels: Mapping[str, str]
    source: Source
    resource_version: str = ""
    value: ValueSource | None = None

    @property
    def key(self) -> Key:
        """What it is called by."""
        return (self.kind.name, self.workspace, self.name)

    def problem(self, field_path: str, rule: str) -> Problem:
        """Return a broken rule of this document, with the line of the field."""
        return Problem(self.source.place(_path(field_path)), field_path, rule)


def understand(sources: Iterable[Source], *, workspace: str, inline: bool = False) -> list[Document]:
    """Make documents of what was read. ``workspace``: of those that name none. Raises BadFiles with every problem."""
    found: list[Document] = []
    problems: list[Problem] = []
    for source in sources:
        reader = _Reader(source, workspace, inline=inline)
        document = reader.document()
        problems += reader.problems
        if document is not None:
            found.append(document)
    problems += _twice(found)
    if problems:
        raise BadFiles(problems)
    return found


def called(key: Key) -> str:
    """Write a key for people: ``Provider default/openai``."""
    kind, workspace, name = key
    return f"{kind} {workspace}/{name}" if workspace else f"{kind} {name}"


def _twice(documents: Sequence[Document]) -> Iterator[Problem]:
    first: dict[Key, Place] = {}
    for document in documents:
        if document.key in first:
            yield document.problem("name", f"{called(document.key)} is already in {first[document.key]}")
        first.setdefault(document.key, document.source.place())


def _path(text: str) -> Path:
    return tuple(int(part) if part.isdecimal() else part for part in re.findall(r"[^.\[\]]+", text))


class _Reader:
    """Reads one document and collects what is wrong with it."""

    def __init__(self, source: Source, workspace: str, *, inline: bool) -> None:
        self.problems: list[Problem] = []
        self._source = source
        self._workspace = workspace
        self._inline = inline
        self._value: Mapping[str, Any] = source.value if isinstance(source.value, dict) else {}

    def document(self) -> Document | None:
        kind = self._kind()
        if kind is None:
            return None
        self._unknown(kind)
        document = Document(
            kind=kind,
            name=self._name("name"),
            workspace=self._name("workspace", self._workspace) if kind.in_workspace else "",
            fields={key: self._value[key] for key in kind.fields if self._value.get(key) is not None},
            labels=self._labels(),
            source=self._source,
            resource_version=self._text("resource_version"),
            value=self._secret_value() if kind is SECRET else None,
        )
        for missing in kind.required:
            if self._value.get(missing) is None:
                self._bad(missing, "must be given")
        return None if self.problems else document

    def _kind(self) -> Kind | None:
        if not isinstance(self._source.value, dict):
            self._bad("", "must be a mapping with the keys kind and name")
            return None
        version = self._value.get("api_version", API_VERSION)
        if version != API_VERSION:
            self._bad("api_version", f"must be {API_VERSION}")
        name = self._value.get("kind")
        kind = BY_NAME.get(name) if isinstance(name, str) else None
        if kind is None:
            self._bad("kind", f"must be one of {', '.join(BY_NAME)}{_like(str(name), BY_NAME)}")
        return kind

    def _unknown(self, kind: Kind) -> None:
        known = {*kind.fields, *_COMMON, *(("value", "value_from") if kind is SECRET else ())}
        if not kind.in_workspace:
            known.discard("workspace")
        for key in self._value:
            if key in known:
                continue
            if key in _SERVED:
                self._bad(key, "is set by the server: leave it out")
            else:
                self._bad(key, f"is no field of a {kind.name}{_like(key, known)}")

    def _name(self, key: str, fallback: str = "") -> str:
        value = self._value.get(key) if self._value.get(key) is not None else fallback
        if not isinstance(value, str) or not names.is_name(value):
            self._bad(key, names.NAME_RULE if value else "must be given")
            return ""
        return value

    def _text(self, key: str) -> str:
        value = self._value.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            self._bad(key, "must be text: put it in quotes")
            return ""
        return value

    def _labels(self) -> dict[str, str]:
        labels = self._value.get("labels")
        if labels is None:
            return {}
        if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
            self._bad("labels", "must be a mapping of names to texts; put numbers in quotes")
            return {}
        return labels

    def _secret_value(self) -> ValueSource | None:
        named, inline = self._value.get("value_from"), self._value.get("value")
        if inline is not None:
            if named is not None:
                self._bad("value", "must not be given together with value_from")
            elif not self._inline:
                self._bad("value", "must not be in a file: name it with value_from, or allow it: --inline-secrets")
            elif not isinstance(inline, str):
                self._bad("value", "must be text: put it in quotes")
            else:
                return ValueSource("inline", inline)
            return None
        return None if named is None else self._value_from(named)

    def _value_from(self, named: Any) -> ValueSource | None:
        if not isinstance(named, dict) or len(named) != 1 or not named.keys() <= {"env", "file"}:
            self._bad("value_from", "must have one key: env, the name of a variable, or file, a path")
            return None
        ((kind, given),) = named.items()
        if not isinstance(given, str) or not given:
            self._bad(f"value_from.{kind}", "must be text")
        elif kind == "env" and not _VARIABLE.fullmatch(given):
            self._bad("value_from.env", "must be the name of a variable")
        else:
            return ValueSource(str(kind), given)
        return None

    def _bad(self, field_path: str, rule: str) -> None:
        self.problems.append(Problem(self._source.place(_path(field_path)), field_path, rule))


def _like(word: str, known: Iterable[str]) -> str:
    """Suggest what was meant."""
    close = difflib.get_close_matches(word, list(known), 1)
    return f"; is {close[0]} meant?" if close else ""
