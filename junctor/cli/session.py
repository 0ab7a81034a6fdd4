"""What a command that calls a server works with, and the options by which it gets it.

``connected`` turns ``def f(session, …)`` into a command: it adds ``--base-url``, ``--workspace``,
``--access-token`` and ``-o``, opens the client, and tells every failure in one line with what to do next.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_type_hints

import httpx
import typer

from junctor import config
from junctor.cli import advice, output, root_flags
from junctor.cli.failure import Failure
from junctor.cli.options import AccessToken, BaseUrl, GrpcTarget, Output, OutputFormat, Workspace
from junctor.cli.output import Column
from junctor.cli.progress import Waiting
from junctor.client import Client
from junctor.errors import JunctorError
from junctor.transport import Options

RETRIES = 1
"""One less than in programs: who waits at a terminal wants to know soon that nobody answers."""


@dataclass(frozen=True, slots=True)
class Session:
    """A client and how to print."""

    client: Client
    output: Output | None
    asked_workspace: str | None = None
    """The workspace that a flag names; None: no flag does."""

    @property
    def workspace(self) -> str:
        """The workspace that the command is about."""
        return self.client.settings.workspace

    def show(self, record: Any) -> None:
        """Print one record, or a JSON object."""
        output.show_one(record if isinstance(record, Mapping) else record.raw, self.output)

    def show_all(self, rows: Iterable[Any], columns: Sequence[Column], *, whole: Any = None, cut: bool = True) -> None:
        """Print a list of records or of JSON objects."""
        plain = [row if isinstance(row, Mapping) else row.raw for row in rows]
        output.show_all(plain, columns, self.output, whole=whole, cut=cut)


def connected(function: Callable[..., None], *, grpc: bool = False, output: Any = OutputFormat) -> Callable[..., None]:
    """Make a command of a function whose first parameter is the :class:`Session`; ``output``: the option ``-o``."""

    @functools.wraps(function)
    def command(context: typer.Context, **arguments: Any) -> None:
        arguments = root_flags.settled(context, arguments)
        wanted = {key: arguments.pop(key, None) for key in ("base_url", "workspace", "access_token", "grpc_target")}
        form = arguments.pop("output", None)
        with reported(context.command_path), opened(**wanted) as client:
            function(Session(client, form, wanted["workspace"] or None), **arguments)

    hints = get_type_hints(function, include_extras=True)
    own = list(inspect.signature(function).parameters.values())[1:]
    parameters = [p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    command.__signature__ = inspect.Signature([_CONTEXT, *parameters, *_shared(output, grpc=grpc)])  # type: ignore[attr-defined]
    command.__annotations__ = {}
    del command.__wrapped__  # its signature would be taken for this one's
    return command


def grpc_connected(function: Callable[..., None]) -> Callable[..., None]:
    """The same for a command that calls by gRPC too: adds ``--grpc-target``."""
    return connected(function, grpc=True)


@contextmanager
def opened(**wanted: Any) -> Iterator[Client]:
    """Open a client (``base_url=…``) that says on a terminal what it waits for. Raises JunctorError."""
    options = Options(config.resolve(**wanted))
    waiting = Waiting(options.where)
    with (
        options.new_client(httpx.Client) as http,
        Client(**wanted, max_retries=RETRIES, http_client=http) as client,
    ):
        http.event_hooks = {"request": [lambda _: waiting.start()], "response": [lambda _: waiting.stop()]}
        try:
            yield client
        finally:
            waiting.stop()


@contextmanager
def reported(command: str = "junctor") -> Iterator[None]:
    """Tell a failed call as :class:`Failure`, with what to do next."""
    try:
        yield
    except JunctorError as error:
        raise Failure(advice.line(error, command)) from error


_CONTEXT = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)


def _shared(output: Any, *, grpc: bool) -> Iterator[inspect.Parameter]:
    options: dict[str, tuple[Any, Any]] = {
        "base_url": (BaseUrl, ""),
        "workspace": (Workspace, ""),
        "access_token": (AccessToken, ""),
        "output": (output, None),
    }
    if grpc:
        options["grpc_target"] = (GrpcTarget, "")
    for name, (annotation, default) in options.items():
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def settings(context: typer.Context) -> config.Settings:
    """Return what is in force for a command that has no flags of its own for it."""
    root = root_flags.of(context)
    with reported():
        return config.resolve(base_url=root.base_url, workspace=root.workspace)
