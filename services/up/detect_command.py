"""``junctor detect``: finds model servers on this machine and keys in the environment, for a junctor that runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

import httpx
import typer

from junctor import urls
from junctor.cli.crud import examples
from junctor.cli.options import Output
from junctor.cli.output import Column, chosen
from junctor.cli.session import Session, connected
from junctor.config import Settings
from services.up.detect import detect
from services.up.findings import Finding, State

_COLUMNS = (
    Column("FOUND", "source"),
    Column("PROVIDER", "provider"),
    Column("STATE", "state"),
    Column("NOTE", "note"),
)


@connected
def _detect(session: Session) -> None:
    """Make providers of the model servers that listen on this machine and of the vendors' keys in the environment.

    What is there already, and what you changed, is left alone. junctor up does the same when it starts.
    """
    settings = session.client.settings
    session.client.models.wait_for_gateway(timeout=0)  # else "nothing found" would be said of a wrong address
    findings = asyncio.run(look(settings, os.environ))
    if findings or chosen(session.output) is not Output.TABLE:
        session.show_all([_row(finding) for finding in findings], _COLUMNS)
    if not findings:
        typer.echo("nothing was found: no model server answers on this machine, no key is set", err=True)
    if any(finding.state is State.FAILED for finding in findings):
        raise typer.Exit(1)


async def look(settings: Settings, environment: Mapping[str, str]) -> list[Finding]:
    """Detect for the junctor of ``settings``; its own port is not taken for a model server."""
    edge = urlsplit(settings.base_url)
    headers = {name: value for name, value in urls.identity(settings).items() if name != "user-agent"}
    async with httpx.AsyncClient(base_url=settings.base_url, headers=headers) as client:
        return await detect(client, environment=environment, own_ports={edge.port or 80})


def _row(finding: Finding) -> dict[str, str]:
    state = finding.state.value
    return {"source": finding.source, "provider": finding.provider, "state": state, "note": finding.note}


command = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
command.command("detect", epilog=examples("junctor detect", "OPENAI_API_KEY=… junctor detect -o json"))(_detect)
