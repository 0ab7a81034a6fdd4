"""``junctor keys``: API keys. A value is printed once, by the command that makes it."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import typer

from junctor.cli import limits
from junctor.cli.crud import examples, group
from junctor.cli.listing import Columns, NoTruncate, chosen_columns, pagination
from junctor.cli.output import Column, day
from junctor.cli.session import Session, connected

app = group(
    "API keys: who may call, and what.",
    "junctor keys create --role Viewer --expires 30d --models 'gpt-*'",
    "junctor keys list",
    "junctor keys revoke key-…",
)

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_ROLES: dict[str, Literal["Viewer", "Editor", "Admin", "PlatformAdmin"]] = {
    "viewer": "Viewer",
    "editor": "Editor",
    "admin": "Admin",
    "platformadmin": "PlatformAdmin",
}
_COLUMNS = (
    Column("ID", "id"),
    Column("PREFIX", "prefix"),
    Column("WORKSPACE", lambda row: row.get("workspace") or "(every one)"),
    Column("ROLE", "role"),
    Column("MODELS", "models"),
    Column("EXPIRES", day("expires_at")),
    Column("CREATED", day("created_at")),
    Column("REVOKED", day("revoked_at")),
    Column("DESCRIPTION", "description"),
)
_Id = Annotated[list[str], typer.Argument(metavar="ID", help="Ids of keys.")]


def role_of(text: str) -> str:
    """Read a role in any case. Raises a usage error."""
    known = _ROLES.get(re.sub(r"[-_ ]", "", text).lower())
    if known is None:
        raise typer.BadParameter(f"must be one of {', '.join(_ROLES.values())}", param_hint="--role")
    return known


def moment(text: str, *, now: datetime) -> str:
    """Read ``30d``, ``12h``, ``90m``, ``2w`` from now, or a date or time. Raises a usage error."""
    if found := re.fullmatch(r"(\d{1,6})([mhdw])", text):
        try:
            return (now + timedelta(**{_UNITS[found[2]]: int(found[1])})).isoformat()
        except OverflowError:
            raise typer.BadParameter("is too far away", param_hint="--expires") from None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        rule = "must be a time from now (30d, 12h, 90m, 2w), a date, or a time as 2030-01-31T12:00:00Z"
        raise typer.BadParameter(rule, param_hint="--expires") from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).isoformat()


def tags_of(given: Sequence[str] | None) -> dict[str, str]:
    """Read ``name=value`` pairs. Raises a usage error."""
    tags: dict[str, str] = {}
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"'{pair}' is not name=value", param_hint="--tag")
        tags[name] = value
    return tags


@app.command(
    "create",
    epilog=examples(
        "junctor keys create --role Editor --workspace lab --expires 30d",
        "junctor keys create --role Viewer --models 'gpt-*' --rpm 60 --budget 50/month",
        "junctor keys create --role PlatformAdmin -o json",
    ),
)
@connected
def create(  # noqa: PLR0913, PLR0917 - one parameter per flag
    session: Session,
    role: Annotated[str, typer.Option("--role", help="Viewer, Editor, Admin, or PlatformAdmin for every workspace.")],
    description: Annotated[str, typer.Option("--description", help="What it is for.", show_default=False)] = "",
    expires: Annotated[str, typer.Option("--expires", help="30d, 12h, or a date.", show_default=False)] = "",
    models: Annotated[
        list[str] | None, typer.Option("--models", metavar="PATTERN", help="Models it may call: 'gpt-*', 'lab/*'.")
    ] = None,
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="read, infer, write or manage: only these.")
    ] = None,
    rpm: limits.Rpm = None,
    tpm: limits.Tpm = None,
    concurrency: limits.Concurrency = None,
    budget: limits.Budget = "",
    tag: Annotated[list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="For reports.")] = None,
) -> None:
    """Make a key and print its value, this once."""
    fields: dict[str, Any] = {
        "description": description,
        "models": models,
        "scopes": scope,
        "limits": limits.given(rpm, tpm, concurrency, budget),
        "tags": tags_of(tag),
        "expires_at": moment(expires, now=datetime.now(UTC)) if expires else None,
    }
    given: Any = {name: value for name, value in fields.items() if value}
    known = role_of(role)
    if known == "PlatformAdmin" and (named := session.asked_workspace):
        raise typer.BadParameter(f"a PlatformAdmin key is for every workspace, not for '{named}'", param_hint="--role")
    session.show(session.client.keys.create(known, workspace=session.workspace, **given))
    typer.echo("Keep the value now: it is not shown again.", err=True)


@app.command(
    "list",
    epilog=examples("junctor keys list", "junctor keys list --workspace lab --ended -o csv"),
)
@connected
def list_(  # noqa: PLR0913, PLR0917 - one parameter per flag
    session: Session,
    ended: Annotated[bool, typer.Option("--ended", help="Revoked and expired keys as well.")] = False,
    filter_: Annotated[str, typer.Option("--filter", help="Such as role:Viewer or JSON.", show_default=False)] = "",
    sort: Annotated[str, typer.Option("--sort", help="A field; - before it: descending.", show_default=False)] = "",
    page_size: Annotated[int | None, typer.Option("--page-size", min=1, max=1000, help="Asked for at once.")] = None,
    columns: Columns = "",
    no_truncate: NoTruncate = False,
) -> None:
    """List the keys that you may manage, without their values."""
    found = session.client.keys.list(
        workspace=session.asked_workspace,
        filter=filter_ or None,
        sort=sort or None,
        page_size=page_size,
        show_ended=ended,
    )
    pages = list(found.pages())
    rows = [key.raw for page in pages for key in page.data]
    whole = {"data": rows, "pagination": pagination(pages, len(rows))}
    session.show_all(rows, chosen_columns(columns, _COLUMNS, rows), whole=whole, cut=not no_truncate)


@app.command("get", epilog=examples("junctor keys get key-… -o yaml"))
@connected
def get(session: Session, key_id: Annotated[str, typer.Argument(metavar="ID", help="Its id.")]) -> None:
    """Show one key without its value."""
    session.show(session.client.keys.get(key_id))


@app.command("revoke", epilog=examples("junctor keys revoke key-…"))
@connected
def revoke(session: Session, key_id: _Id) -> None:
    """Revoke keys for good, everywhere within a second."""
    for each in key_id:
        session.client.keys.revoke(each)
        sys.stdout.flush()
        typer.echo(f"key {each} revoked", err=True)
