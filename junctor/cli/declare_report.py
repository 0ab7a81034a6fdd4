"""What came of applying files, for people and for programs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from junctor.cli import output
from junctor.cli.options import Output
from junctor.cli.output import Column
from junctor.declare.execute import Outcome
from junctor.declare.planning import Step

_COLUMNS = (
    Column("RESULT", "result"),
    Column("KIND", "kind"),
    Column("WORKSPACE", "workspace"),
    Column("NAME", "name"),
    Column("FIELDS", "fields"),
    Column("WHY", "why"),
)
_MARKS = {"create": "+", "change": "~", "prune": "-", "unchanged": " "}
_COLOURS = {"create": "green", "change": "yellow", "prune": "red"}


def show(outcomes: Sequence[Outcome], wanted: Output | None, *, dry: bool = False) -> None:
    """Print what came of each resource, and how many of each on standard error."""
    rows = [_row(outcome) for outcome in outcomes]
    counts = Counter(outcome.result for outcome in outcomes)
    whole = {"dry_run": dry, "resources": [_whole(outcome) for outcome in outcomes], "summary": dict(counts)}
    output.show_all(rows, _COLUMNS, wanted, whole=whole)
    told = ", ".join(f"{count} {result}" for result, count in counts.items()) or "nothing to do"
    typer.echo(f"{'would be: ' if dry else ''}{told}", err=True)


def show_diff(steps: Sequence[Step], wanted: Output | None) -> None:
    """Print the differences: fields with what they are and what they are to be."""
    if output.chosen(wanted) is not Output.TABLE:
        rows = [{**_about(step), "action": step.action, "changes": _changes(step)} for step in steps]
        output.show_all(rows, (*_COLUMNS[1:4], Column("ACTION", "action")), wanted, whole={"resources": rows})
        return
    for step in steps:
        for line in _lines(step):
            colour = _COLOURS.get(step.action)
            typer.echo(typer.style(line, fg=colour) if output.coloured() and colour else line)


def _about(step: Step) -> dict[str, Any]:
    kind, workspace, name = step.key
    return {"kind": kind, "workspace": workspace or None, "name": name}


def _row(outcome: Outcome) -> dict[str, Any]:
    return {"result": outcome.result, **_about(outcome.step), "fields": list(outcome.fields), "why": outcome.why}


def _whole(outcome: Outcome) -> dict[str, Any]:
    place = outcome.step.document.source.place() if outcome.step.document else None
    return {
        **_row(outcome),
        "changes": _changes(outcome.step),
        "source": {"file": place.file, "document": place.document, "line": place.line} if place else None,
    }


def _changes(step: Step) -> list[dict[str, Any]]:
    return [{"field": change.field, "before": change.before, "after": change.after} for change in step.changes]


def _lines(step: Step) -> Iterator[str]:
    kind, workspace, name = step.key
    if step.action == "unchanged" and not step.note:
        return
    note = f"   ({step.note})" if step.note else ""
    yield f"{_MARKS[step.action]} {kind} {f'{workspace}/' if workspace else ''}{name}{note}"
    for change in step.changes:
        if step.action == "change" or step.current is not None:
            for place, before, after in _within(change.field, change.before, change.after):
                yield f"    {place}: {_written(before)} -> {_written(after)}"
        else:
            yield f"    {change.field}: {_written(change.after)}"


def _within(place: str, before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    """Find the places inside of two values at which they differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            yield from _within(f"{place}.{key}", before.get(key), after.get(key))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _within(f"{place}[{index}]", one, other)
    elif before != after:
        yield place, before, after


def _written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
