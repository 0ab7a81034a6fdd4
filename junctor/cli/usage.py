"""``junctor usage``: what requests used and cost."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated, Any

import typer

from junctor.cli import output
from junctor.cli.crud import examples, group
from junctor.cli.listing import Columns, NoTruncate, chosen_columns
from junctor.cli.options import Output
from junctor.cli.output import Column, Row
from junctor.cli.session import Session, connected
from junctor.resources.usage_kinds import Wanted
from junctor.usage_records import UsageRecord

app = group(
    "What requests used and cost.",
    "junctor usage --by model --since 7d --cost",
    "junctor usage list --filter 'verdict:\"truncated\"'",
    "junctor usage tail",
)

_LOOK_SECONDS = 1.0
_PAGE = 200
_KNOWN = 5_000
"""Records that a tail remembers, so as to print each one once: they may come late, and not in order."""
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_NAMES = {"key": "principal", "user": "principal", "upstream-model": "upstream_model"}
_TOKENS = (
    Column("IN", "input_tokens"),
    Column("CACHED", "cached_tokens"),
    Column("OUT", "output_tokens"),
    Column("REASONING", "reasoning_tokens"),
)

_Since = Annotated[str, typer.Option("--since", help="7d, 12h, 90m, 2w ago, or a date or time.", show_default=False)]
_Until = Annotated[str, typer.Option("--until", help="The same; exclusive.", show_default=False)]
_Filter = Annotated[str, typer.Option("--filter", help="Such as tags.app:search or JSON.", show_default=False)]


def ago(text: str, *, now: datetime) -> str | None:
    """Read ``7d``, ``12h``, ``90m``, ``2w`` before now, or a date or time. Raises a usage error."""
    if not text:
        return None
    if found := re.fullmatch(r"(\d{1,6})([mhdw])", text):
        try:
            return (now - timedelta(**{_UNITS[found[2]]: int(found[1])})).isoformat()
        except OverflowError:
            raise typer.BadParameter(f"'{text}' is too long ago") from None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        rule = "is no time: 7d, 12h, 90m, 2w ago, a date, or a time as 2030-01-31T12:00:00Z"
        raise typer.BadParameter(f"'{text}' {rule}") from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).isoformat()


def dollars(micros: int) -> str:
    """Write millionths of a dollar."""
    return f"${micros // 1_000_000:,}.{micros % 1_000_000:06}"


def _cost(row: Row) -> str:
    priced, unpriced = row.get("cost_micros"), row.get("unpriced", 0)
    if "requests" in row and unpriced:
        return f"{dollars(priced)} + {unpriced} unpriced" if priced else "unknown"
    return "" if priced is None else dollars(priced)


def _summary(
    session: Session,
    by: Annotated[
        list[str] | None,
        typer.Option("--by", help="model, workspace, provider, key, principal, kind, verdict, day, hour, tag:NAME."),
    ] = None,
    since: _Since = "",
    until: _Until = "",
    filter_: _Filter = "",
    cost: Annotated[bool, typer.Option("--cost", help="What it cost, too.")] = False,
) -> None:
    """Add up what requests used, and what that cost."""
    fields = [_NAMES.get(field, field) for each in by or () for field in each.split(",") if field]
    now = datetime.now(UTC)
    found = session.client.usage.summarize(
        fields,
        workspace=session.asked_workspace,
        since=ago(since, now=now),
        until=ago(until, now=now),
        filter=filter_ or None,
    )
    form = output.chosen(session.output)
    rows: list[Mapping[str, Any]] = [each.raw for each in found.sums] if fields else [found.total.raw]
    if fields and form in (Output.TABLE, Output.MARKDOWN):
        rows.append({**found.total.raw, "group": ["(all)", *[""] * (len(fields) - 1)]})
    groups = [Column(field.upper(), _nth(index)) for index, field in enumerate(fields)]
    columns = [*groups, Column("REQUESTS", "requests"), Column("FAILED", "failed"), *_TOKENS]
    if cost:
        columns.append(Column("COST", _cost if form in (Output.TABLE, Output.MARKDOWN) else "cost_micros"))
        columns += [Column("UNPRICED", "unpriced")] if form is Output.CSV else []
    session.show_all(rows, columns, whole=found.raw)


def _nth(index: int) -> Any:
    return lambda row: row["group"][index] or "-"


_summed = connected(_summary)


def _default(context: typer.Context, **arguments: Any) -> None:
    if context.invoked_subcommand is None:
        _summed(context, **arguments)


_default.__signature__ = _summed.__signature__  # type: ignore[attr-defined]
_default.__doc__ = _summary.__doc__
_default.__annotations__ = {}
app.callback(
    invoke_without_command=True,
    no_args_is_help=False,
    epilog=examples(
        "junctor usage --by model --since 7d --cost",
        "junctor usage --by tag:team --by day --since 30d --cost -o csv",
        "junctor usage list --filter 'verdict:\"truncated\"'",
        "junctor usage tail",
    ),
)(_default)

_COLUMNS = (
    Column("TIME", lambda row: str(row.get("time") or "")[:19].replace("T", " ")),
    Column("MODEL", lambda row: row.get("model") or row.get("provider") or "-"),
    Column("PROVIDER", lambda row: row.get("provider") or "-"),
    Column("WHO", lambda row: row.get("principal") or "-"),
    Column("VERDICT", "verdict"),
    Column("STATUS", lambda row: row.get("status") or "-"),
    *_TOKENS,
    Column("COST", _cost),
    Column("SECONDS", lambda row: f"{row.get('total_seconds') or 0:.2f}"),
)


@app.command(
    "list",
    epilog=examples("junctor usage list --workspace lab --limit 20", "junctor usage list --since 1h -o csv -c all"),
)
@connected
def list_(  # noqa: PLR0913, PLR0917 - one parameter per flag
    session: Session,
    since: _Since = "",
    until: _Until = "",
    filter_: _Filter = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 100,
    columns: Columns = "",
    no_truncate: NoTruncate = False,
) -> None:
    """List requests, newest first."""
    now = datetime.now(UTC)
    found = session.client.usage.list(
        workspace=session.asked_workspace,
        since=ago(since, now=now),
        until=ago(until, now=now),
        filter=filter_ or None,
        page_size=min(limit, 1000),
    )
    rows = [record.raw for record in islice(found, limit)]
    session.show_all(rows, chosen_columns(columns, _COLUMNS, rows), whole={"data": rows}, cut=not no_truncate)


@app.command("tail", epilog=examples("junctor usage tail", "junctor usage tail -n 0 -o json | jq .cost_micros"))
@connected
def tail(
    session: Session,
    newest: Annotated[int, typer.Option("-n", "--newest", min=0, max=_PAGE, help="How many come first.")] = 10,
    filter_: _Filter = "",
) -> None:
    """Show the newest requests, then those that end, until Ctrl-C. With -o json a line for each."""
    form = output.chosen(session.output)
    try:
        for record in _following(session, Wanted(session.asked_workspace, filter=filter_ or None), newest):
            typer.echo(_line(record.raw, form))
    except BrokenPipeError:
        return


def _following(session: Session, wanted: Wanted, newest: int) -> Iterator[UsageRecord]:
    """Yield each record once, oldest first."""
    asked = session.client.usage.list(workspace=wanted.workspace, filter=wanted.filter, page_size=_PAGE)
    first = asked.page().data
    yield from reversed(first[:newest])
    seen = dict.fromkeys(record.id for record in first)
    while True:
        time.sleep(_LOOK_SECONDS)
        new: list[UsageRecord] = []
        for page in asked.pages():
            unseen = [record for record in page.data if record.id not in seen]
            new += unseen
            if len(unseen) < len(page.data):
                break
        yield from reversed(new)
        seen = dict.fromkeys([*(record.id for record in new), *seen][:_KNOWN])


def _line(row: Row, form: Output) -> str:
    if form in (Output.JSON, Output.YAML):
        return json.dumps(row, ensure_ascii=False)
    return "  ".join(cell for column in _COLUMNS if (cell := column.of(row)))
