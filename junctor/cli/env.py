"""``junctor env``: variables by which existing programs find junctor."""

from __future__ import annotations

import json
import shlex
from enum import StrEnum
from typing import Annotated

import typer

from junctor import urls
from junctor.cli import output
from junctor.cli.options import Output
from junctor.cli.session import Session, connected


class Shell(StrEnum):
    """Whose syntax to print."""

    SH = "sh"
    FISH = "fish"
    POWERSHELL = "powershell"


@connected
def command(
    session: Session,
    shell: Annotated[Shell, typer.Option("--shell", help="sh is right for bash and zsh.")] = Shell.SH,
) -> None:
    """Print variables for clients of OpenAI, Anthropic and nemo. With a token set, they hold it.

    \b
    Examples:
      eval "$(junctor env)"
      junctor env --shell fish | source
      junctor env -o json
    """
    variables = environment(session)
    if session.output is not None and session.output is not Output.TABLE:
        output.show_one(variables, session.output)
        return
    for name, value in variables.items():
        typer.echo(_line(shell, name, value))


def environment(session: Session) -> dict[str, str]:
    """Return the variables."""
    settings = session.client.settings
    key = settings.access_token or urls.NO_TOKEN
    found = {
        "OPENAI_BASE_URL": session.client.models.get_openai_route_base_url(),
        "OPENAI_API_KEY": key,
        "ANTHROPIC_BASE_URL": settings.base_url,
        "ANTHROPIC_API_KEY": key,
        "NMP_BASE_URL": settings.base_url,
        "NMP_WORKSPACE": settings.workspace,
        "JUNCTOR_BASE_URL": settings.base_url,
        "JUNCTOR_WORKSPACE": settings.workspace,
    }
    if settings.access_token:
        found |= {"NMP_ACCESS_TOKEN": key, "JUNCTOR_ACCESS_TOKEN": key}
    return found


def _line(shell: Shell, name: str, value: str) -> str:
    if shell is Shell.FISH:
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"set -gx {name} '{quoted}'"
    if shell is Shell.POWERSHELL:
        quoted = value.replace("'", "''")
        return f"$env:{name} = '{quoted}'"
    return f"export {name}={shlex.quote(value)}"


def quoted(text: str) -> str:
    """Write a text as a string literal of Python, JavaScript, Go and JSON."""
    return json.dumps(text, ensure_ascii=False)
