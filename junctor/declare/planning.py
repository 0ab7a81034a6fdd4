"""What has to be done so that a junctor is what the documents say. Pure: it is given what there is.

A field that a document does not name goes back to its default, but for those that operators or discovery write
(``Kind.kept``). Compared is what the server itself makes of a document with what it shows now, so that two ways
to write the same are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from junctor.declare.documents import Document, Key, called
from junctor.declare.kinds import BY_NAME, KINDS, OWNER, SECRET, WORKSPACE, Kind
from junctor.declare.problems import BadFiles, Problem

Json = Mapping[str, Any]
Action = Literal["create", "change", "unchanged", "prune"]

BUILT_IN = frozenset({"default", "system"})
"""Workspaces that cannot be deleted (HTTP contract)."""


@dataclass(frozen=True, slots=True)
class Change:
    """One field, as it is and as it is to be."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Step:
    """What to do with one resource; ``document`` is None for what is pruned, ``current`` for what is not there."""

    key: Key
    action: Action
    changes: tuple[Change, ...] = ()
    document: Document | None = None
    current: Json | None = None
    target: Json = field(default_factory=dict)
    """The whole object as it is to be, in the server's own words."""
    note: str = ""

    @property
    def kind(self) -> Kind:
        """The kind of the resource."""
        return BY_NAME[self.key[0]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """All documents and how they are meant.

    ``canonical``: what the server makes of each. ``owner``: marks what is written; empty: marks nothing.
    """

    documents: Sequence[Document]
    canonical: Mapping[Key, Json]
    owner: str = ""
    prune: bool = False
    take_over: bool = False
    notes: Mapping[Key, str] = field(default_factory=dict)


def plan(wanted: Wanted, current: Mapping[Key, Json]) -> list[Step]:
    """Return the steps in the order in which they have to be done. Raises BadFiles before anything is."""
    steps = [_step(document, wanted, current.get(document.key)) for document in _in_order(wanted.documents)]
    problems = [problem for step in steps for problem in _problems(step, wanted, current)]
    if problems:
        raise BadFiles(problems)
    return [*steps, *(_pruned(wanted, current) if wanted.prune else ())]


def _in_order(documents: Sequence[Document]) -> list[Document]:
    rank = {kind.name: index for index, kind in enumerate(KINDS)}
    return sorted(documents, key=lambda document: rank[document.kind.name])


def _step(document: Document, wanted: Wanted, current: Json | None) -> Step:
    note = wanted.notes.get(document.key, "")
    target = {**wanted.canonical[document.key], "labels": _labels(document, wanted, current)}
    changes = tuple(differences(document, current or {}, target))
    if current is None or current.get("autoprovisioned"):  # what junctor made becomes the caller's by being written
        return Step(document.key, "create", changes, document, current, target, note)
    return Step(document.key, "change" if changes else "unchanged", changes, document, current, target, note)


def _labels(document: Document, wanted: Wanted, current: Json | None) -> dict[str, str]:
    there = (current or {}).get("labels") or {}
    owner = wanted.owner or document.labels.get(OWNER) or there.get(OWNER)
    return {**document.labels, **({OWNER: owner} if owner else {})}


def differences(document: Document, current: Json, target: Json) -> Iterator[Change]:
    """Return the fields in which an object (empty: none) is not as it is to be."""
    for name in document.kind.settable:
        if name in document.kind.kept and name not in document.fields:
            continue
        before, after = plain(name, current.get(name)), plain(name, target.get(name))
        if before != after and (current or name in document.fields or name == "labels"):
            yield Change(name, before, after)


def plain(name: str, value: Any) -> Any:
    """Return one of the ways in which nothing can be written, where there are two."""
    return None if name in ("description", "labels") and not value else value


def _problems(step: Step, wanted: Wanted, current: Mapping[Key, Json]) -> Iterator[Problem]:
    document = step.document
    assert document is not None
    there = step.current or {}
    version = there.get("resource_version", "")
    if document.resource_version and document.resource_version != version:
        told = f"is {version} now" if step.current is not None else "is of a resource that is not there"
        yield document.problem("resource_version", f"{told}: somebody changed it after this file was made")
    owner = (there.get("labels") or {}).get(OWNER, "")
    if wanted.owner and owner not in ("", wanted.owner) and not wanted.take_over:
        rule = f"{called(step.key)} belongs to the configuration '{owner}'; make it yours with --take-over"
        yield document.problem("name", rule)
    if step.action != "unchanged":
        yield from _missing(step, document, wanted, current)


def _missing(step: Step, document: Document, wanted: Wanted, current: Mapping[Key, Json]) -> Iterator[Problem]:
    known = current.keys() | {one.key for one in wanted.documents}
    workspace = document.workspace
    if workspace and (WORKSPACE.name, "", workspace) not in known:
        yield document.problem("workspace", f"there is no workspace '{workspace}', neither in the files nor in junctor")
    elif document.kind is SECRET and step.action == "create" and document.value is None:
        yield document.problem("value_from", f"must be given: there is no secret {workspace}/{document.name} yet")
    for path, name in document.kind.secrets(document.fields):
        changed = {change.field for change in step.changes}
        if path.partition(".")[0] in changed and (SECRET.name, workspace, name) not in known:
            rule = f"there is no secret '{name}' in workspace '{workspace}', neither in the files nor in junctor"
            yield document.problem(path, rule)


def _pruned(wanted: Wanted, current: Mapping[Key, Json]) -> Iterator[Step]:
    named = {document.key for document in wanted.documents}
    for kind in reversed(KINDS):
        for key, there in current.items():
            mine = key[0] == kind.name and (there.get("labels") or {}).get(OWNER) == wanted.owner
            if not mine or key in named:
                continue
            if kind is WORKSPACE and (key[2] in BUILT_IN or _holds(key[2], named)):
                why = "it is built in" if key[2] in BUILT_IN else "the files have resources in it"
                yield Step(key, "unchanged", current=there, note=f"not pruned: {why}")
            else:
                yield Step(key, "prune", current=there)


def _holds(workspace: str, named: set[Key]) -> bool:
    return any(key[1] == workspace for key in named)
