"""The commands of the stored resources: workspaces, models, secrets, providers, virtual models."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from junctor.cli import limits
from junctor.cli.crud import Field, Resource, add_reads, add_writes, examples, group
from junctor.cli.inputs import InputData, InputFile, given_object, read_input
from junctor.cli.output import Column, Row, day
from junctor.cli.session import Session, connected

NAME = Column("NAME", "name")
CREATED = Column("CREATED", day("created_at"))
DESCRIPTION = Column("DESCRIPTION", "description")
_DESCRIPTION = Field("description", "At most 1,000 characters.")
_PROJECT = Field("project", "A project of your choosing.")


def _health(row: Row) -> Any:
    state = row.get("admin_state") or "ACTIVE"
    return row.get("status") if state == "ACTIVE" else state


WORKSPACES = Resource(
    path="workspaces",
    one="workspace",
    columns=(NAME, DESCRIPTION, CREATED),
    collection=lambda client: client.workspaces,
    fields=(_DESCRIPTION,),
    example="--description 'Research'",
    in_workspace=False,
)

SECRETS = Resource(
    path="secrets",
    one="secret",
    columns=(NAME, Column("WORKSPACE", "workspace"), DESCRIPTION, CREATED),
    collection=lambda client: client.secrets,
)

MODELS = Resource(
    path="models",
    one="model",
    columns=(
        NAME,
        Column("WORKSPACE", "workspace"),
        Column("PROVIDERS", "model_providers"),
        Column("FORMAT", "backend_format"),
        CREATED,
    ),
    collection=lambda client: client.models,
    fields=(
        _DESCRIPTION,
        _PROJECT,
        Field("base_model", "The model that this one was made from."),
        Field("fileset", "Where the weights are."),
        Field("finetuning_type", "How it was fine-tuned."),
        Field("api_endpoint", "Where it can be reached directly.", "json"),
        Field("backend_format", "OPENAI_CHAT or ANTHROPIC_MESSAGES."),
        Field("prompt", "A prompt template.", "json"),
        Field("custom_fields", "Fields of your own.", "json"),
        Field("ownership", "Who owns it.", "json"),
        Field("model_providers", "WORKSPACE/PROVIDER; repeatable.", "list"),
        Field("spec", "Architecture, context size and the like.", "json"),
        Field("trust_remote_code", "Whether its code is to be trusted.", "flag"),
    ),
    example="--description 'Ours'",
)

PROVIDERS = Resource(
    path="inference providers",
    one="provider",
    columns=(
        NAME,
        Column("WORKSPACE", "workspace"),
        Column("STATUS", _health),
        Column("MODELS", lambda row: len(row.get("served_models") or ())),
        Column("HOST URL", "host_url"),
        Column("MESSAGE", "status_message"),
    ),
    collection=lambda client: client.inference.providers,
    fields=(
        Field("host_url", "Base URL of its API, with or without /v1."),
        Field("api_key_secret_name", "Secret of the workspace with its key."),
        _DESCRIPTION,
        _PROJECT,
        Field("enabled_models", "Its id of a model to take; repeatable. Without: all.", "list"),
        Field("default_extra_body", "Merged under the caller's body.", "json"),
        Field("default_extra_headers", "Sent when the caller did not.", "json"),
        Field("required_extra_body", "Merged over the caller's body.", "json"),
        Field("required_extra_headers", "Replace the caller's.", "json"),
        Field("auth_header_format", "Such as 'x-api-key: {{ auth_secret }}'."),
        Field("model_deployment_id", "Deployment that it belongs to."),
        Field("timeouts", "connect_ms, first_byte_ms, idle_ms, total_ms.", "json"),
        Field("api_base_path", "Replaces the leading v1/ of a call's path."),
        Field("models_path", "Path of its model list."),
        Field("static_models", "A model id, where it has no list; repeatable.", "list"),
        Field("tls", "CA bundle, client certificate, server name.", "json"),
        Field("proxy", "Proxy URL for calls to it."),
        Field("max_concurrency", "Calls at a time; 0: unlimited.", "number"),
    ),
    example="--host-url http://localhost:11434/v1",
    required=("host_url",),
    after="its models route once it is READY: junctor wait inference provider {name} -w {workspace}",
)

VIRTUAL_MODELS = Resource(
    path="inference virtual-models",
    one="virtual model",
    columns=(
        NAME,
        Column("WORKSPACE", "workspace"),
        Column("LEADS TO", "default_model_entity"),
        Column("POLICY", lambda row: (row.get("routing") or {}).get("policy")),
        Column("AUTO", "autoprovisioned"),
        CREATED,
    ),
    collection=lambda client: client.virtual_models,
    fields=(
        _DESCRIPTION,
        _PROJECT,
        Field("default_model_entity", "WORKSPACE/MODEL that calls go to."),
        Field("routing", "Policy, targets, fallbacks, retry.", "json"),
        Field("models", "Further models.", "json"),
        Field("request_middleware", "Kept for compatible clients.", "json"),
        Field("response_middleware", "Kept for compatible clients.", "json"),
        Field("post_response_middleware", "Kept for compatible clients.", "json"),
        Field("override_proxy", "Kept for compatible clients.", "json"),
    ),
    example="--default-model-entity default/gpt-4-1",
)


workspaces = group(
    "Workspaces: where everything else lives.",
    "junctor workspaces create lab --exist-ok",
    "junctor workspaces list",
)
add_reads(workspaces, WORKSPACES)
add_writes(workspaces, WORKSPACES, updates=False)


@workspaces.command(
    "update",
    epilog=examples(
        "junctor workspaces update lab --description 'Research'",
        "junctor workspaces update lab --rpm 600 --tpm 200000 --budget 50/month",
        "junctor workspaces update lab --no-limits",
    ),
)
@connected
def update_workspace(  # noqa: PLR0913, PLR0917 - one parameter per flag
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name.")],
    description: Annotated[str | None, typer.Option(help=_DESCRIPTION.help, show_default=False)] = None,
    rpm: limits.Rpm = None,
    tpm: limits.Tpm = None,
    concurrency: limits.Concurrency = None,
    budget: limits.Budget = "",
    no_limits: Annotated[bool, typer.Option("--no-limits", help="Lift those that are not named.")] = False,
    input_file: InputFile = "",
    input_data: InputData = "",
) -> None:
    """Change a workspace: what is not named is kept. Limits are of all callers together."""
    fields = given_object(input_file, input_data)
    fields.pop("name", None)
    named = limits.given(rpm, tpm, concurrency, budget)
    before = session.client.workspaces.get(name)
    if description is not None or "description" not in fields:
        fields["description"] = before.description if description is None else description
    if named or no_limits:
        kept = {} if no_limits else before.limits or {}
        fields["limits"] = {key: limit for key, limit in {**kept, **named}.items() if limit is not None}
    session.show(session.client.workspaces.update(name, **fields))


models = group(
    "Model entities: the catalogue. What can be called: inference models list.",
    "junctor models list",
    "junctor models get gpt-4-1 -o yaml",
)
add_reads(models, MODELS)
add_writes(models, MODELS)

secrets = group(
    "Secrets: providers' keys. Values go in and never come out.",
    "junctor secrets create openai --from-file - < key.txt",
    "junctor secrets list",
)
add_reads(secrets, SECRETS)

providers = group(
    "Providers: who serves the models.",
    "junctor inference providers create up --host-url http://localhost:11434/v1",
    "junctor inference providers list",
    "junctor inference providers drain up",
)
add_reads(providers, PROVIDERS)
add_writes(providers, PROVIDERS, replaces=True)

virtual_models = group(
    "Virtual models: the names that callers use.",
    "junctor inference virtual-models create fast --default-model-entity default/gpt-4-1",
)
add_reads(virtual_models, VIRTUAL_MODELS)
add_writes(virtual_models, VIRTUAL_MODELS)

_SecretName = Annotated[str, typer.Argument(metavar="NAME", help="Its name.")]
_FromFile = Annotated[str, typer.Option("--from-file", help="File with the value; - is stdin.", show_default=False)]
_Value = Annotated[
    str, typer.Option("--value", help="The value. Prefer --from-file: others can see flags.", show_default=False)
]
_Description = Annotated[str | None, typer.Option("--description", help=_DESCRIPTION.help, show_default=False)]


@secrets.command(
    "create",
    epilog=examples(
        "junctor secrets create openai --from-file - < key.txt",
        "pass show openai | junctor secrets create openai --from-file -",
        "junctor secrets create openai        (asks for it at a terminal)",
    ),
)
@connected
def create_secret(
    session: Session, name: _SecretName, from_file: _FromFile = "", value: _Value = "", description: _Description = None
) -> None:
    """Create a secret."""
    told = _value(from_file, value) or _asked()
    session.show(session.client.secrets.create(name, told, workspace=session.workspace, description=description))


@secrets.command("update", epilog=examples("junctor secrets update openai --from-file - < new.txt"))
@connected
def update_secret(
    session: Session, name: _SecretName, from_file: _FromFile = "", value: _Value = "", description: _Description = None
) -> None:
    """Change a secret; requests use the new value within a second."""
    told = _value(from_file, value)
    if told is None and description is None:
        raise typer.BadParameter("give --from-file, --value or --description")
    secret = session.client.secrets.update(name, workspace=session.workspace, value=told, description=description)
    session.show(secret)


def _value(from_file: str, value: str) -> str | None:
    if from_file and value:
        raise typer.BadParameter("give --from-file or --value, not both")
    return read_input(from_file).rstrip("\r\n") if from_file else value or None


def _asked() -> str:
    import sys

    if not sys.stdin.isatty():
        raise typer.BadParameter("give the value with --from-file - (stdin) or --from-file FILE")
    return str(typer.prompt("Value", hide_input=True, err=True))


def _admin(verb: str, told: str) -> None:
    @providers.command(verb, help=told, epilog=examples(f"junctor inference providers {verb} NAME"))
    @connected
    def change(session: Session, name: Annotated[str, typer.Argument(metavar="NAME", help="Its name.")]) -> None:
        session.show(getattr(session.client.inference.providers, verb)(name, workspace=session.workspace))


for _verb, _told in (
    ("drain", "Give it no new calls; those under way finish."),
    ("disable", "Give it no calls."),
    ("enable", "Give it calls again."),
    ("reset", "Forget its failures: try it again at once."),
):
    _admin(_verb, _told)


@providers.command(
    "update-status",
    short_help="Set a provider's status by hand.",
    epilog=examples("junctor inference providers update-status NAME --status ERROR --status-message 'Away'"),
)
@connected
def update_status(  # noqa: PLR0913, PLR0917 - one parameter per flag
    session: Session,
    name: _SecretName,
    status: Annotated[str | None, typer.Option("--status", help="Such as READY or ERROR.")] = None,
    status_message: Annotated[str | None, typer.Option("--status-message", help="Why.")] = None,
    served_models: Annotated[str | None, typer.Option("--served-models", metavar="JSON", help="Its models.")] = None,
    model_deployment_id: Annotated[str | None, typer.Option("--model-deployment-id", help="Its deployment.")] = None,
    input_file: InputFile = "",
    input_data: InputData = "",
) -> None:
    """Set a provider's status by hand; it holds until the next successful discovery."""
    fields = given_object(input_file, input_data)
    flags = {"status": status, "status_message": status_message, "model_deployment_id": model_deployment_id}
    fields |= {key: value for key, value in flags.items() if value is not None}
    if served_models is not None:
        fields["served_models"] = Field("served_models", "", "json").value(served_models)
    if not fields:
        raise typer.BadParameter("nothing to set; see junctor inference providers update-status --help")
    session.show(session.client.inference.providers.update_status(name, workspace=session.workspace, **fields))
