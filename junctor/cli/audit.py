"""``junctor audit``: the record of writes and refused calls."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import islice
from typing import Annotated

import typer

from junctor.access_records import AuditEvent
from junctor.cli import output
from junctor.cli.crud import examples, group
from junctor.cli.listing import Columns, NoTruncate, chosen_columns
from junctor.cli.options import Output
from junctor.cli.output import Column, Row
from junctor.cli.session import Session, connected

app = group(
    "The record of writes and refused calls.",
    "junctor audit list --filter 'kind:\"key\"'",
    "junctor audit tail",
)

_LOOK_SECONDS = 1.0
_PAGE = 200
_KNOWN = 5_000
"""Events that a tail remembers, so as to print each one once: they may come late, and not in order."""


def _what(row: Row) -> str:
    named = "/".join(str(row[key]) for key in ("workspace", "name") if row.get(key))
    if row.get("kind") == "workspace":
        named = str(row.get("name") or "")
    return " ".join(part for part in (row.get("kind"), named) if part)


def _reason(row: Row) -> str:
    count = row.get("count") or 1
    return f"{row.get('reason') or ''}" + (f" ({count} times)" if count > 1 else "")


_COLUMNS = (
    Column("TIME", lambda row: str(row.get("time") or "")[:19].replace("T", " ")),
    Column("WHO", lambda row: row.get("principal") or "-"),
    Column("ACTION", "action"),
    Column("WHAT", _what),
    Column("METHOD", "method"),
    Column("REASON", _reason),
    Column("REQUEST", "request_id"),
)
_Filter = Annotated[str, typer.Option("--filter", help="Such as action:REFUSED or JSON.", show_default=False)]


@app.command(
    "list",
    epilog=examples(
        "junctor audit list --workspace lab --limit 20",
        "junctor audit list --filter 'action:\"REFUSED\"' -o csv",
    ),
)
@connected
def list_(
    session: Session,
    filter_: _Filter = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 100,
    columns: Columns = "",
    no_truncate: NoTruncate = False,
) -> None:
    """List events, newest first."""
    found = session.client.audit.list(
        workspace=session.asked_workspace, filter=filter_ or None, page_size=min(limit, 1000)
    )
    rows = [event.raw for event in islice(found, limit)]
    session.show_all(rows, chosen_columns(columns, _COLUMNS, rows), whole={"data": rows}, cut=not no_truncate)


@app.command(
    "tail",
    epilog=examples("junctor audit tail", "junctor audit tail -n 0 -o json | jq .principal"),
)
@connected
def tail(
    session: Session,
    newest: Annotated[int, typer.Option("-n", "--newest", min=0, max=_PAGE, help="How many come first.")] = 10,
    filter_: _Filter = "",
) -> None:
    """Show the newest events, then those that come, until Ctrl-C. With -o json a line for each."""
    form = output.chosen(session.output)
    try:
        for event in _following(session, session.asked_workspace, filter_ or None, newest):
            typer.echo(_line(event.raw, form))
    except BrokenPipeError:
        return


def _following(session: Session, workspace: str | None, wanted: str | None, newest: int) -> Iterator[AuditEvent]:
    """Yield each event once, oldest first."""
    first = session.client.audit.list(workspace=workspace, filter=wanted, page_size=_PAGE).page().data
    yield from reversed(first[:newest])
    seen = dict.fromkeys(event.id for event in first)
    while True:
        time.sleep(_LOOK_SECONDS)
        new: list[AuditEvent] = []
        for page in session.client.audit.list(workspace=workspace, filter=wanted, page_size=_PAGE).pages():
            unseen = [event for event in page.data if event.id not in seen]
            new += unseen
            if len(unseen) < len(page.data):
                break
        yield from reversed(new)
        seen = dict.fromkeys([*(event.id for event in new), *seen][:_KNOWN])


def _line(row: Row, form: Output) -> str:
    if form in (Output.JSON, Output.YAML):
        return json.dumps(row, ensure_ascii=False)
    return "  ".join(cell for column in _COLUMNS[:-1] if (cell := column.of(row)))
