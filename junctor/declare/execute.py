"""Does what a plan says, one step after the other, and tells what came of each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from junctor.declare import requests
from junctor.declare.documents import Document, Key, ValueSource, called
from junctor.declare.kinds import KINDS, PROVIDER, SECRET, WORKSPACE, Kind
from junctor.declare.planning import Step, differences, plain
from junctor.declare.problems import Problem
from junctor.errors import InvalidField, JunctorError, ResourceExists, ResourceNotFound, StaleVersion
from junctor.request import Request

T = TypeVar("T")
Json = Mapping[str, Any]
Result = Literal["created", "changed", "unchanged", "pruned", "failed", "skipped"]
Values = Mapping[Key, str]
"""Secrets' values, by the key of their documents."""


class Send(Protocol):
    """Sends a request and returns its answer, as ``Client.send`` does. Raises JunctorError."""

    def __call__(self, request: Request[T]) -> T:
        """Send."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a step; ``fields`` are those that changed, ``why`` is for what failed or was skipped."""

    step: Step
    result: Result
    fields: tuple[str, ...] = ()
    why: str = ""


# What there is


def current(send: Send, workspaces: Iterable[str] | None) -> dict[Key, Json]:
    """Read every workspace, and what is in the named ones (None: in all). Raises JunctorError."""
    found = {(WORKSPACE.name, "", str(each["name"])): each for each in every(send, WORKSPACE, "")}
    there = [key[2] for key in found]
    for workspace in there if workspaces is None else [name for name in there if name in set(workspaces)]:
        for kind in KINDS:
            if kind.in_workspace:
                found |= {(kind.name, workspace, str(each["name"])): each for each in every(send, kind, workspace)}
    return found


def every(send: Send, kind: Kind, workspace: str, size: int = requests.PAGE) -> Iterator[Json]:
    """Read all objects of a kind in a workspace. Raises JunctorError."""
    number, last = 1, 1
    while number <= last:
        page = send(requests.page(kind, workspace, number, size))
        yield from page.data
        number, last = number + 1, page.total_pages


# What the server makes of the documents


def values(documents: Iterable[Document]) -> tuple[dict[Key, str], list[Problem]]:
    """Fetch the values of secrets from where the documents say; also returns what cannot be fetched."""
    found: dict[Key, str] = {}
    problems: list[Problem] = []
    for document in documents:
        if document.value is None:
            continue
        value, rule = _value(document.value, Path(document.source.file).parent)
        if value is None:
            problems.append(document.problem(f"value_from.{document.value.kind}", rule))
        else:
            found[document.key] = value
    return found, problems


def _value(source: ValueSource, folder: Path) -> tuple[str | None, str]:
    if source.kind == "env":
        return os.environ.get(source.given) or None, f"the variable {source.given} is not set"
    if source.kind == "inline":
        return source.given, ""
    try:
        return (folder / source.given).read_text("utf-8").rstrip("\r\n"), ""
    except (OSError, UnicodeDecodeError) as error:
        return None, f"cannot read {source.given}: {getattr(error, 'strerror', None) or 'not UTF-8'}"


def canonical(send: Send, documents: Iterable[Document], given: Values) -> tuple[dict[Key, Json], list[Problem]]:
    """Have the services check every document; also returns what they refuse. Raises JunctorError. Writes nothing."""
    found: dict[Key, Json] = {}
    problems: list[Problem] = []
    for document in documents:
        body = _body(document, labels=document.labels)
        if document.kind is SECRET:
            body["value"] = given.get(document.key, "not known here")
        try:
            found[document.key] = send(requests.validate(document.kind, document.workspace, body))
        except JunctorError as error:
            problems += _refused(document, error)
    return found, problems


def _refused(document: Document, error: JunctorError) -> Iterator[Problem]:
    """Tell what the service says against a document. Raises ``error`` when it is about something else."""
    if isinstance(error, ResourceNotFound):
        raise ResourceNotFound("this junctor cannot check documents: it is older than 0.3.0", metadata=error.metadata)
    if error.status not in (400, 422):
        raise error
    if isinstance(error, InvalidField) and error.violations:
        for violation in error.violations:
            yield document.problem(re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", violation.field), violation.rule)
    else:
        yield document.problem("", str(error))


def _body(document: Document, *, labels: Mapping[str, str]) -> dict[str, Any]:
    return {"name": document.name, **document.fields, **({"labels": dict(labels)} if labels else {})}


# Doing it


def run(send: Send, steps: Sequence[Step], given: Values) -> Iterator[Outcome]:
    """Do the steps. A failed one does not hold up others, but what needs it is skipped, and nothing is pruned."""
    failed: set[Key] = set()
    for step in steps:
        outcome = _held_up(step, failed) or _do(send, step, given.get(step.key))
        if outcome.result in ("failed", "skipped"):
            failed.add(step.key)
        yield outcome


def _held_up(step: Step, failed: set[Key]) -> Outcome | None:
    if step.action == "prune":
        return Outcome(step, "skipped", why="nothing is pruned after a failure") if failed else None
    needed = [(WORKSPACE.name, "", step.key[1])]
    if step.document is not None:
        needed += [(SECRET.name, step.key[1], name) for _, name in step.kind.secrets(step.document.fields)]
    missing = next((key for key in needed if key in failed), None)
    return None if missing is None else Outcome(step, "skipped", why=f"{called(missing)} failed")


def _do(send: Send, step: Step, value: str | None) -> Outcome:
    try:
        if step.action == "prune":
            return _prune(send, step)
        if step.action == "create" and step.current is None:
            return _create(send, step, value)
        if step.action == "unchanged" and value is None:
            return Outcome(step, "unchanged", why=step.note)
        return _change(send, step, value)
    except StaleVersion:
        return Outcome(step, "failed", why="somebody changed it since it was read: look at it, then run this again")
    except JunctorError as error:
        return Outcome(step, "failed", why=" ".join(str(error).split()))


def _prune(send: Send, step: Step) -> Outcome:
    assert step.current is not None
    with suppress(ResourceNotFound):
        send(requests.delete(step.kind, step.key[1], step.key[2], str(step.current.get("resource_version") or "")))
    return Outcome(step, "pruned")


def _create(send: Send, step: Step, value: str | None) -> Outcome:
    assert step.document is not None
    body = _body(step.document, labels=dict(step.target.get("labels") or {}))
    if value is not None:
        body["value"] = value
    fields = tuple(change.field for change in step.changes)
    try:
        made = send(requests.create(step.kind, step.key[1], body))
    except ResourceExists:
        there = send(requests.one(step.kind, step.key[1], step.key[2]))
        if not there.get("autoprovisioned"):
            return Outcome(step, "failed", why="somebody else made it since this began: run this again")
        changes = tuple(differences(step.document, there, step.target))
        return _change(send, replace(step, changes=changes, current=there), value)
    return _checked(step, made, Outcome(step, "created", fields))


def _change(send: Send, step: Step, value: str | None) -> Outcome:
    assert step.current is not None
    version = str(step.current.get("resource_version") or "")
    body = {**_changed(step), "resource_version": version}
    if value is not None:
        body["value"] = value
    now = send(requests.change(step.kind, step.key[1], step.key[2], body))
    if step.action == "create":
        return _checked(step, now, Outcome(step, "created", tuple(change.field for change in step.changes)))
    fields = tuple(change.field for change in step.changes)
    if value is not None and now.get("resource_version") == version:
        return Outcome(step, "unchanged")
    if value is not None and not fields:
        return Outcome(step, "changed", ("value",))
    return _checked(step, now, Outcome(step, "changed", fields))


def _changed(step: Step) -> dict[str, Any]:
    """Return what to send: of a replaced kind everything that it is to have, of the others what changes."""
    assert step.document is not None
    document = step.document
    if step.kind not in (PROVIDER, WORKSPACE):
        body = {change.field: _sent(step, change.field) for change in step.changes}
        # A virtual model that junctor made becomes the caller's by being written, whatever is written.
        return body or ({"description": _sent(step, "description")} if step.action == "create" else {})
    names = [name for name in document.kind.fields if name in document.fields or name not in document.kind.kept]
    return {**{name: document.fields.get(name) for name in names}, "labels": dict(step.target.get("labels") or {})}


def _sent(step: Step, name: str) -> Any:
    assert step.document is not None
    if name == "labels":
        return dict(step.target.get("labels") or {})
    value = step.document.fields.get(name)
    return "" if value is None and step.kind is SECRET and name == "description" else value


def _checked(step: Step, now: Json, outcome: Outcome) -> Outcome:
    """Tell a server that did not take what it was sent: one of an older release, say."""
    lost = [change.field for change in step.changes if plain(change.field, now.get(change.field)) != change.after]
    if not lost:
        return outcome
    return Outcome(step, "failed", outcome.fields, f"the server did not take: {', '.join(lost)}; is it up to date?")
