"""``junctor members``: who has which roles in a workspace."""

from __future__ import annotations

from typing import Annotated

import typer

from junctor.cli.crud import examples, group
from junctor.cli.keys import role_of
from junctor.cli.listing import Columns, NoTruncate, chosen_columns
from junctor.cli.output import Column, day
from junctor.cli.session import Session, connected
from junctor.errors import ResourceExists

app = group(
    "Members of a workspace: who has which roles.",
    "junctor members create jane@example.com --role Editor --workspace lab",
    "junctor members list --workspace lab",
    "junctor members delete jane@example.com --workspace lab",
)

_COLUMNS = (
    Column("PRINCIPAL", "principal"),
    Column("ROLES", "roles"),
    Column("GRANTED", day("granted_at")),
    Column("GRANTED BY", "granted_by"),
)
_Principal = Annotated[
    str, typer.Argument(metavar="PRINCIPAL", help="A subject, an e-mail address, group:NAME, or * for everybody.")
]
_Roles = Annotated[list[str], typer.Option("--role", help="Viewer, Editor or Admin; more than once for several.")]


@app.command("list", epilog=examples("junctor members list --workspace lab"))
@connected
def list_(session: Session, columns: Columns = "", no_truncate: NoTruncate = False) -> None:
    """List the members of a workspace."""
    rows = [member.raw for member in session.client.members.list()]
    session.show_all(rows, chosen_columns(columns, _COLUMNS, rows), whole={"data": rows}, cut=not no_truncate)


@app.command("get", epilog=examples("junctor members get jane@example.com"))
@connected
def get(session: Session, principal: _Principal) -> None:
    """Show one member."""
    session.show(session.client.members.get(principal))


@app.command(
    "create",
    epilog=examples(
        "junctor members create jane@example.com --role Editor", "junctor members create group:search --role Viewer"
    ),
)
@connected
def create(
    session: Session,
    principal: _Principal,
    role: _Roles,
    exist_ok: Annotated[bool, typer.Option("--exist-ok", help="Show one that is there, as it is.")] = False,
) -> None:
    """Add a member."""
    try:
        session.show(session.client.members.create(principal, [role_of(each) for each in role]))
    except ResourceExists:
        if not exist_ok:
            raise
        session.show(session.client.members.get(principal))


@app.command(
    "update",
    epilog=examples("junctor members update jane@example.com --role Admin"),
)
@connected
def update(session: Session, principal: _Principal, role: _Roles) -> None:
    """Replace a member's roles."""
    session.show(session.client.members.update(principal, [role_of(each) for each in role]))


@app.command("delete", epilog=examples("junctor members delete jane@example.com"))
@connected
def delete(session: Session, principal: Annotated[list[str], typer.Argument(metavar="PRINCIPAL", help="Who.")]) -> None:
    """Take every role from members."""
    for each in principal:
        session.client.members.delete(each)
        typer.echo(f"member {each} removed", err=True)
