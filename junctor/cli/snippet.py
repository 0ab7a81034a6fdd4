"""``junctor snippet``: a whole program that calls a model, to be pasted and run."""

from __future__ import annotations

from enum import StrEnum
from string import Template
from typing import Annotated

import typer

from junctor import trust, urls
from junctor.cli import snippets
from junctor.cli.conversation import target
from junctor.cli.env import quoted
from junctor.cli.session import Session, grpc_connected


class Language(StrEnum):
    """What the snippet is written in or for."""

    CURL = "curl"
    PYTHON = "python"
    NODE = "node"
    LITELLM = "litellm"
    ANTHROPIC = "anthropic"
    GRPC_PYTHON = "grpc-python"
    GRPC_GO = "grpc-go"


@grpc_connected
def command(
    session: Session,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model, or workspace/model.")],
    lang: Annotated[Language, typer.Option("--lang", "-l", help="Language or library.")] = Language.PYTHON,
    stream: Annotated[bool, typer.Option("--stream", help="The answer in pieces, as it comes.")] = False,
    prompt: Annotated[str, typer.Option("--prompt", help="The question in it.")] = "Hello",
) -> None:
    """Print a program that asks a model. A token is read from JUNCTOR_ACCESS_TOKEN, never written into it.

    \b
    Examples:
      junctor snippet demo-echo-1 --lang curl | sh
      junctor snippet demo-echo-1 --stream > ask.py && python ask.py
      junctor snippet demo-echo-1 --lang grpc-go
    """
    typer.echo(written(session, lang, model, prompt, stream=stream), nl=False)


def written(session: Session, lang: Language, model: str, prompt: str, *, stream: bool) -> str:
    """Write the snippet."""
    settings = session.client.settings
    workspace, name = target(model, settings.workspace, "")
    address, secure = trust.grpc_address(settings)
    base = urls.openai_route(settings.base_url, workspace)
    templates = snippets.STREAMED if stream else snippets.WHOLE
    # A base URL or a question with a quote in it must not end the shell's quoting.
    values = {
        "base": quoted(base),
        "root": quoted(settings.base_url),
        "url": _in_shell(f"{base}/chat/completions"),
        "grpc": quoted(settings.grpc_target),
        "grpc_address": quoted(address),
        "go_imports": '\n\t"google.golang.org/grpc/credentials"' if secure else "",
        "go_way": _GO_TLS if secure else "grpc.WithInsecure()",
        "model": quoted(name),
        "prompt": quoted(prompt),
        "shell_model": _in_shell(quoted(name)),
        "shell_prompt": _in_shell(quoted(prompt)),
        "token": urls.NO_TOKEN,
    }
    return Template(templates[lang.value]).substitute(values).lstrip("\n")


_GO_TLS = 'grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(nil, ""))'
"""Trusts what the system trusts; SSL_CERT_FILE adds an authority of one's own."""


def _in_shell(text: str) -> str:
    return text.replace("'", "'\\''")
