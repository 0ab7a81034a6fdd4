"""``junctor inference``: what can be called, where, and why a call goes where it goes."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from junctor import names
from junctor.cli import gateway, resources
from junctor.cli.crud import examples, group
from junctor.cli.lazy import LazyCommand
from junctor.cli.listing import Columns, NoTruncate, chosen_columns
from junctor.cli.output import Column, Row
from junctor.cli.session import Session, connected, grpc_connected

_ADDED = "junctor.inference_commands"
_ADDED_HELP = {"replay": "Decide a call again from its receipt, without a server."}


class InferenceGroup(TyperGroup):
    """The group, and what the server's packages add to it: imported when it runs."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for entry in entry_points(group=_ADDED):
            added = LazyCommand(entry.name, entry.value, _ADDED_HELP.get(entry.name, ""))
            self.commands.setdefault(entry.name, added)


app = group(
    "Providers, virtual models, and calls through the gateway.",
    "junctor inference models list",
    "junctor inference providers list",
    "junctor inference explain gpt-4-1",
    cls=InferenceGroup,
)
app.add_typer(resources.providers, name="providers")
app.add_typer(resources.virtual_models, name="virtual-models")
app.add_typer(gateway.app, name="gateway")

models = group("What can be called now.", "junctor inference models list")
app.add_typer(models, name="models")

_SERVED = (Column("MODEL", "id"), Column("WORKSPACE", "owned_by"))
_CANDIDATES = (
    Column("TRY", lambda row: row.get("position") or "-"),
    Column("PROVIDER", "provider"),
    Column("ITS MODEL", "upstream_model"),
    Column("TIER", "tier"),
    Column("WEIGHT", lambda row: f"{row.get('weight', 0):g}"),
    Column("OPEN", "outstanding"),
    Column("WHY", lambda row: row.get("detail") or row.get("reason")),
)


@models.command("list", epilog=examples("junctor inference models list", "junctor inference models list -w lab -o csv"))
@connected
def list_models(session: Session, columns: Columns = "", no_truncate: NoTruncate = False) -> None:
    """List the names that route now; MODEL is what goes into a request."""
    served = session.client.inference.models.list(workspace=session.workspace)
    rows = [model.raw for model in served]
    shown = chosen_columns(columns, _SERVED, rows)
    session.show_all(rows, shown, whole={"object": "list", "data": rows}, cut=not no_truncate)


@models.command("get", epilog=examples("junctor inference models get gpt-4-1"))
@connected
def get_model(
    session: Session, name: Annotated[str, typer.Argument(metavar="NAME", help="Model, or workspace/model.")]
) -> None:
    """Show one name that routes now."""
    session.show(session.client.inference.models.get(name, workspace=session.workspace))


@app.command(
    "get-url",
    short_help="Print the base URL for OpenAI's clients.",
    epilog=examples(
        "export OPENAI_BASE_URL=$(junctor inference get-url)",
        "curl $(junctor inference get-url --provider up)/v1/models",
    ),
)
@connected
def get_url(
    session: Session,
    provider: Annotated[str, typer.Option("--provider", help="A provider's route.", show_default=False)] = "",
    virtual_model: Annotated[str, typer.Option("--virtual-model", help="A model's route.", show_default=False)] = "",
) -> None:
    """Print the OpenAI base URL; the routes by provider and model end with /- for a path of your own."""
    if provider and virtual_model:
        raise typer.BadParameter("give --provider or --virtual-model, not both")
    client, workspace = session.client, session.workspace
    if provider:
        client.inference.providers.get(provider, workspace=workspace)
        url = client.models.get_provider_route_openai_url(provider, workspace=workspace).removesuffix("/v1")
    elif virtual_model:
        client.models.get(virtual_model, workspace=workspace)
        url = client.models.get_model_entity_route_openai_url(virtual_model, workspace=workspace).removesuffix("/v1")
    else:
        url = client.models.get_openai_route_base_url(workspace=workspace)
    typer.echo(url)


@app.command(
    short_help="Tell where a call would go, and why not elsewhere.",
    epilog=examples("junctor inference explain gpt-4-1", "junctor inference explain gpt-4.1 --provider oai"),
)
@grpc_connected
def explain(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model, or workspace/model.")],
    provider: Annotated[str, typer.Option("--provider", help="As called at this provider.", show_default=False)] = "",
) -> None:
    """Tell which providers a call would be tried at, in which order, and why not at others. Sends nothing."""
    from google.protobuf.json_format import MessageToDict

    from junctor.v1 import inference_router_pb2 as pb

    named, name = names.split(model)
    workspace = (named if not provider else "") or session.workspace
    if provider:
        target = pb.ProviderTarget(workspace=session.workspace, name=provider)
        request = pb.ExplainRouteRequest(provider=target, body_model=model)
    else:
        request = pb.ExplainRouteRequest(model=pb.ModelTarget(workspace=workspace, name=name))
    answer = session.client.grpc.explain_route(request)
    whole = MessageToDict(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    rows: list[Row] = whole["candidates"]
    session.show_all(rows, _CANDIDATES, whole=whole)
    if not any(row["position"] for row in rows):
        typer.echo("junctor: nothing would serve this call now", err=True)
        raise typer.Exit(1)
