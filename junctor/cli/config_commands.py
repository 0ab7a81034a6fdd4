"""``junctor config`` and ``junctor auth``: where junctor is, and who the caller is there. They call nothing."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from junctor import config, urls
from junctor.cli import output, root_flags
from junctor.cli.crud import examples, group
from junctor.cli.failure import Failure
from junctor.cli.options import OutputFormat
from junctor.cli.session import reported, settings

app = group(
    "Where junctor is and what you may do there; a file of contexts.",
    "junctor config set --base-url https://junctor.example.com",
    "junctor config view",
)
auth = group("Your credential, for other tools.", "junctor auth header")

REDACTED = "********"

_Context = Annotated[str, typer.Option("--context", help="Context to change [the current].", show_default=False)]


def _text(flag: str, told: str, *short: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(*short, flag, help=told, show_default=False)
    return option


@app.command(
    "set",
    epilog=examples(
        "junctor config set --base-url https://junctor.example.com --workspace lab",
        "junctor config set --access-token -      (asks for it, or reads stdin)",
        "junctor config set --context prod --activate --base-url https://…",
    ),
)
def set_(  # noqa: PLR0913, PLR0917 - one parameter per flag
    base_url: Annotated[str | None, _text("--base-url", "Where junctor is; empty removes it.")] = None,
    workspace: Annotated[str | None, _text("--workspace", "Workspace of commands.", "-w")] = None,
    access_token: Annotated[str | None, _text("--access-token", "Bearer token; - asks, or reads stdin.")] = None,
    grpc_target: Annotated[str | None, _text("--grpc-target", "Where its gRPC is.")] = None,
    ca_file: Annotated[str | None, _text("--ca-file", "PEM file of the authorities that vouch for it.")] = None,
    context: _Context = "",
    activate: Annotated[bool, typer.Option("--activate", help="Make it the current context.")] = False,
) -> None:
    """Set values of a context, which is made if absent."""
    if access_token == "-":  # noqa: S105 - the sign for standard input
        access_token = _token()
    given = {"base_url": base_url, "workspace": workspace, "access_token": access_token, "grpc_target": grpc_target}
    given["ca_file"] = ca_file
    values = {key: value for key, value in given.items() if value is not None}
    if not values and not activate:
        raise typer.BadParameter("nothing to set; see junctor config set --help")
    if base_url:
        with reported():
            urls.checked(base_url)
    file = _load()
    name = context or file.current
    changed = file.with_values(name, values)
    _save(config.ConfigFile(name if activate else changed.current, changed.contexts))
    typer.echo(f"context {name} saved in {config.path()}", err=True)


@app.command(epilog=examples("junctor config view", "junctor config view --show-token -o json"))
def view(
    context: typer.Context,
    show_token: Annotated[bool, typer.Option("--show-token", help="Show tokens in clear.")] = False,
    form: OutputFormat = None,
) -> None:
    """Show what is in force and where each value comes from."""
    found = settings(context)
    rows = [{"setting": key, "value": getattr(found, key), "from": found.sources[key]} for key in config.KEYS]
    for row in rows:
        if row["setting"] == "access_token" and row["value"] and not show_token:
            row["value"] = REDACTED
    titles = [output.Column(key.upper(), key) for key in ("setting", "value", "from")]
    file = _load()
    whole = {
        "file": str(config.path()),
        "current_context": file.current,
        "contexts": sorted(file.contexts),
        "settings": {row["setting"]: {"value": row["value"], "from": row["from"]} for row in rows},
    }
    output.show_all(rows, titles, form or root_flags.of(context).output, whole=whole)


@app.command("use-context", epilog=examples("junctor config use-context prod"))
def use_context(name: Annotated[str, typer.Argument(metavar="NAME", help="A context of the file.")]) -> None:
    """Make a context the current one."""
    file = _load()
    if name not in file.contexts:
        known = ", ".join(sorted(file.contexts)) or "none yet"
        raise Failure(f"no context '{name}' (there are: {known}); make it with: junctor config set --context {name} …")
    _save(config.ConfigFile(name, file.contexts))


@app.command("current-context", epilog=examples("junctor config current-context"))
def current_context() -> None:
    """Print the current context's name."""
    typer.echo(_load().current)


@auth.command(epilog=examples('curl -H "$(junctor auth header)" http://localhost:8080/v1/models'))
def header(context: typer.Context) -> None:
    """Print the Authorization header for curl. It holds your token: mind where it goes."""
    typer.echo(f"Authorization: Bearer {settings(context).access_token or urls.NO_TOKEN}")


def _load() -> config.ConfigFile:
    with reported():
        return config.load(config.path())


def _save(file: config.ConfigFile) -> None:
    try:
        config.save(config.path(), file)
    except OSError as error:
        place = os.fspath(config.path())
        raise Failure(f"cannot write {place}: {error.strerror}; set {config.CONFIG_FILE}") from None


def _token() -> str:
    if sys.stdin.isatty():
        return str(typer.prompt("Access token", hide_input=True, err=True))
    return sys.stdin.read().strip()
