"""``junctor status``: services, catalog and providers at a glance."""

from __future__ import annotations

from typing import Any

import typer

from junctor import names
from junctor.cli import output
from junctor.cli.options import Output
from junctor.cli.output import Column
from junctor.cli.resources import PROVIDERS
from junctor.cli.session import Session, grpc_connected
from junctor.errors import JunctorError

_SERVICES = (Column("SERVICE", "service"), Column("STATE", "state"))


@grpc_connected
def command(session: Session) -> None:
    """Show services, catalog revision, models and providers of all workspaces; exit code 1 if one is down.

    \b
    Examples:
      junctor status
      junctor status -o json
    """
    found = session.client.status()
    services = _states(found)
    try:
        providers = [provider.raw for provider in session.client.inference.providers.list(workspace="-")]
    except JunctorError:
        providers = None
    try:
        served = [model.id for model in session.client.inference.models.list()]
    except JunctorError:
        served = None
    whole = {
        "base_url": session.client.settings.base_url,
        "status": found.get("status"),
        "services": {row["service"]: row["state"] for row in services},
        "catalog": _revisions(session, served or []),
        "models": served,
        "providers": providers,
    }
    if output.chosen(session.output) is Output.TABLE:
        _told(session, whole, services)
    else:
        output.show_one(whole, session.output)
    if found.get("status") != "healthy":
        raise typer.Exit(1)


def _states(found: Any) -> list[dict[str, str]]:
    services = found.get("services") or {}
    rows = [{"service": name, "state": "ready"} for name in services.get("ready") or ()]
    return rows + [{"service": name, "state": "not ready"} for name in services.get("not_ready") or ()]


def _revisions(session: Session, served: list[str]) -> dict[str, str] | None:
    """Ask the router which revision of each store it decides from; None when gRPC cannot be reached."""
    from junctor.v1 import inference_router_pb2 as pb

    if not served:
        return None
    workspace, _, name = served[0].partition("/")
    request = pb.ExplainRouteRequest(model=pb.ModelTarget(workspace=workspace, name=name))
    try:
        return dict(session.client.grpc.explain_route(request, timeout=2.0).revisions)
    except JunctorError:
        return None


def _told(session: Session, whole: dict[str, Any], services: list[dict[str, str]]) -> None:
    typer.echo(f"{whole['base_url']} is {whole['status']}")
    typer.echo(f"catalog: {_catalog(session, whole)}")
    count = "unknown" if whole["models"] is None else len(whole["models"])
    typer.echo(f"models in {session.workspace}: {count}\n")
    output.show_all(services, _SERVICES, Output.TABLE)
    typer.echo()
    providers = whole["providers"] or []
    *columns, _ = PROVIDERS.columns
    output.show_all(providers, columns, Output.TABLE)
    for provider in providers:  # what to do is at the end of a message: below the table none is cut
        if message := output.plain(provider.get("status_message")):
            typer.echo(f"\n{names.join(provider['workspace'], provider['name'])}: {message}")


def _catalog(session: Session, whole: dict[str, Any]) -> str:
    revisions = whole["catalog"]
    if revisions is None:
        target = session.client.settings.grpc_target
        return f"unknown: no gRPC at {target} (--grpc-target HOST:PORT)" if whole["models"] else "unknown"
    return ", ".join(f"{store} {revision}" for store, revision in sorted(revisions.items()))
