"""Options that every command which calls a server has: a flag wins over its variable, that over the config file."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Output(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    CSV = "csv"
    MARKDOWN = "markdown"


BaseUrl = Annotated[
    str,
    typer.Option(
        "--base-url", envvar="JUNCTOR_BASE_URL", help="Where junctor is [http://localhost:8080].", show_default=False
    ),
]
Workspace = Annotated[
    str,
    typer.Option("--workspace", "-w", envvar="JUNCTOR_WORKSPACE", help="Workspace [default].", show_default=False),
]
AccessToken = Annotated[
    str,
    typer.Option(
        "--access-token",
        envvar="JUNCTOR_ACCESS_TOKEN",
        help="Sent as bearer token. Prefer the variable: others on this machine can see flags.",
        show_default=False,
    ),
]
GrpcTarget = Annotated[
    str,
    typer.Option(
        "--grpc-target",
        envvar="JUNCTOR_GRPC_TARGET",
        help="Where junctor's gRPC is [port 50051 of the base URL's host].",
        show_default=False,
    ),
]
OutputFormat = Annotated[
    Output | None,
    typer.Option(
        "-o",
        "-f",
        "--output",
        "--output-format",
        help="How to print [a terminal: table, else json].",
        show_default=False,
    ),
]
