"""Options that every command which calls a server has; a flag wins over its environment variable."""

from __future__ import annotations

from typing import Annotated

import typer

DEFAULT_BASE_URL = "http://localhost:8080"
DEFAULT_WORKSPACE = "default"

BaseUrl = Annotated[str, typer.Option("--base-url", envvar="JUNCTOR_BASE_URL", help="Where junctor listens.")]
Workspace = Annotated[str, typer.Option("--workspace", "-w", envvar="JUNCTOR_WORKSPACE", help="Workspace.")]
AccessToken = Annotated[
    str,
    typer.Option(
        "--access-token",
        envvar="JUNCTOR_ACCESS_TOKEN",
        help="Sent as bearer token. Prefer the variable: others on this machine can see flags.",
        show_default=False,
    ),
]
