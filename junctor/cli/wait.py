"""``junctor wait``: returns when something is ready, for scripts."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from junctor.cli.crud import examples, group
from junctor.cli.session import Session, connected

app = group("Wait until something is ready.", "junctor wait inference provider up")
inference = group("Wait for providers and the gateway.", "junctor wait inference gateway")
app.add_typer(inference, name="inference")

_Timeout = Annotated[float, typer.Option("--timeout", "-t", min=0, help="Seconds to wait at most.")]


@inference.command(
    short_help="Wait until a provider's models route.",
    epilog=examples("junctor wait inference provider up", "junctor wait inference provider up -t 120"),
)
@connected
def provider(
    session: Session, name: Annotated[str, typer.Argument(metavar="NAME", help="Its name.")], timeout: _Timeout = 60.0
) -> None:
    """Wait until a provider's models route; exit code 1 when they do not in time, or cannot."""
    _say(f"waiting for provider {session.workspace}/{name} …")
    found = session.client.models.wait_for_provider(name, workspace=session.workspace, timeout=timeout)
    count = len(found.served_models)
    typer.echo(f"provider {session.workspace}/{name} is ready: {count} model{'' if count == 1 else 's'}", err=True)


@inference.command(epilog=examples("junctor wait inference gateway"))
@connected
def gateway(session: Session, timeout: _Timeout = 60.0) -> None:
    """Wait until the gateway serves requests."""
    _say("waiting for the gateway …")
    session.client.models.wait_for_gateway(timeout=timeout)
    typer.echo("the gateway is ready", err=True)


def _say(text: str) -> None:
    if sys.stderr.isatty():
        typer.echo(text, err=True)
