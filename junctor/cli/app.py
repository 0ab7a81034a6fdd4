"""The command tree: what is built in, and what packages add by the entry-point group ``junctor.commands``.

A command's module is imported when the command runs, not before: ``junctor --help`` stays quick and works
without the server packages.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from junctor.cli.failure import Failure
from junctor.cli.lazy import LazyCommand
from junctor.cli.options import Output
from junctor.cli.root_flags import RootFlags

GROUP = "junctor.commands"

EPILOG = """\b
Examples:
  junctor up                                start everything on this machine
  junctor chat demo-echo-1 'Hello'          ask a model, token by token
  echo 'Hello' | junctor chat demo-echo-1   the same, from a pipe
  junctor chat gpt-4.1 'Hi' --provider oai  ask a provider by its own id
  junctor inference models list             what can be called now
  junctor snippet demo-echo-1 --lang curl   the same call in your language
  junctor doctor                            what is wrong, and what to do

\b
Settings: a flag, before or after the command, wins over JUNCTOR_BASE_URL,
JUNCTOR_WORKSPACE, JUNCTOR_ACCESS_TOKEN, JUNCTOR_GRPC_TARGET; these win over
the config file.

\b
Exit codes: 0 done, 1 failed (one line says why and what to try),
2 wrong usage, 130 stopped with Ctrl-C.
"""


@dataclass(frozen=True)
class CommandSpec:
    """A command by name: where it is (``module:attribute``) and its line in the help."""

    target: str
    help: str


BUILT_IN = {
    "chat": CommandSpec("junctor.cli.chat:command", "Ask a model; the answer is printed as it comes."),
    "models": CommandSpec("junctor.cli.resources:models", "Model entities: the catalogue."),
    "inference": CommandSpec("junctor.cli.inference:app", "Providers, virtual models, calls by any route."),
    "secrets": CommandSpec("junctor.cli.resources:secrets", "Secrets: providers' keys."),
    "workspaces": CommandSpec("junctor.cli.resources:workspaces", "Workspaces."),
    "apply": CommandSpec("junctor.cli.declaring:apply", "Make resources what files say."),
    "diff": CommandSpec("junctor.cli.declaring:diff", "What apply would change."),
    "export": CommandSpec("junctor.cli.declaring:export_command", "Resources as files for apply."),
    "import": CommandSpec("junctor.cli.importing:app", "Other gateways' configurations as files for apply."),
    "keys": CommandSpec("junctor.cli.keys:app", "API keys: who may call, and what."),
    "members": CommandSpec("junctor.cli.members:app", "Members of a workspace: who has which roles."),
    "audit": CommandSpec("junctor.cli.audit:app", "The record of writes and refused calls."),
    "usage": CommandSpec("junctor.cli.usage:app", "What requests used and cost."),
    "prices": CommandSpec("junctor.cli.prices:app", "What a million tokens of a model cost."),
    "wait": CommandSpec("junctor.cli.wait:app", "Wait until something is ready."),
    "status": CommandSpec("junctor.cli.status:command", "Services, catalog and providers at a glance."),
    "debug": CommandSpec("junctor.cli.bundle:app", "One file for those who help: no secrets in it."),
    "doctor": CommandSpec("junctor.cli.doctor:command", "What is wrong, and the next command."),
    "snippet": CommandSpec("junctor.cli.snippet:command", "A call to a model in your language."),
    "env": CommandSpec("junctor.cli.env:command", "Variables for clients of OpenAI, Anthropic, nemo."),
    "config": CommandSpec("junctor.cli.config_commands:app", "Where junctor is: a file of contexts."),
    "auth": CommandSpec("junctor.cli.config_commands:auth", "Your credential, for other tools."),
    "protos": CommandSpec("junctor.cli.protos:app", "The gRPC contract: .proto files, descriptor set."),
}

SERVER_HELP = {
    "up": "Start all services and the HTTP edge in one process.",
    "demo-provider": "Run the demo provider alone.",
    "detect": "Make providers of model servers and keys on this machine.",
    "admin": "Maintenance of a server's data.",
}
"""Help of the server's commands, so that listing them needs none of the server's packages."""


def commands() -> Iterator[tuple[str, CommandSpec]]:
    """List every command: built-in ones first, then those that installed packages add."""
    yield from BUILT_IN.items()
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name != "up"):
        owner = entry.dist.name if entry.dist else "another package"
        yield entry.name, CommandSpec(entry.value, SERVER_HELP.get(entry.name, f"Added by {owner}."))


class RootGroup(TyperGroup):
    """The top of the tree: holds the lazy commands; a :class:`Failure` is one line and exit code 1."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, spec in commands():
            self.commands.setdefault(name, LazyCommand(name, spec.target, spec.help))

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()  # what fails at the interpreter's end can be told no more
        except Failure as failure:
            typer.echo(f"junctor: {failure}", err=True)
            raise typer.Exit(1) from None
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # takes what could not be written
            typer.echo(f"junctor: {error.strerror}: the output is not complete", err=True)
            raise typer.Exit(1) from None


def build() -> typer.Typer:
    """Build the command tree."""
    app = typer.Typer(
        cls=RootGroup,
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"junctor {version('junctor')}")
        raise typer.Exit


def _root(
    context: typer.Context,
    base_url: Annotated[str, typer.Option("--base-url", help="For any command: where junctor is.")] = "",
    workspace: Annotated[str, typer.Option("--workspace", "-w", help="For any command: workspace.")] = "",
    output: Annotated[
        Output | None, typer.Option("-o", "-f", "--output", "--output-format", help="For any command: how to print.")
    ] = None,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """One door to every model: typed gRPC services behind an OpenAI-compatible HTTP edge."""
    context.obj = RootFlags(base_url, workspace, output)
