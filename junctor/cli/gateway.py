"""``junctor inference gateway``: any call to a provider's API, through one of the three routes."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from junctor.cli.crud import examples, group
from junctor.cli.inputs import read_input
from junctor.cli.output import show_one
from junctor.cli.session import Session, connected

app = group(
    "Any call to a provider's API, by one of three routes.",
    "junctor inference gateway provider get v1/models --name up",
    "junctor inference gateway model post v1/chat/completions m --input-file -",
)

VERBS = ("get", "post", "put", "patch", "delete")

_Path = Annotated[str, typer.Argument(metavar="PATH", help="Path of the provider's API, such as v1/models.")]
_OptionalName = Annotated[str, typer.Argument(metavar="NAME", help="Model or provider.", show_default=False)]
_Name = Annotated[str, typer.Option("--name", help="Model or provider.", show_default=False)]
_Body = Annotated[str, typer.Option("--body", "--input-data", help="JSON, or @FILE.", show_default=False)]
_InputFile = Annotated[str, typer.Option("--input-file", help="File with the body; - is stdin.", show_default=False)]
_Stream = Annotated[bool, typer.Option("--stream", help="Print the answer as it comes.")]
_Param = Annotated[list[str] | None, typer.Option("--param", help="KEY=VALUE of the query; repeatable.")]
_Header = Annotated[list[str] | None, typer.Option("--header", help="'NAME: VALUE'; repeatable.")]


def _add(route: str, verb: str, routes: typer.Typer) -> None:
    def call(session: Session, path: str, name: str, body: str, input_file: str, stream: bool, **extra: Any) -> None:
        caller = getattr(session.client.inference.gateway, route)
        options: dict[str, Any] = {"workspace": session.workspace, **extra}
        if route != "openai":
            if not name:
                raise typer.BadParameter(f"which {route}? give it after PATH, or with --name", param_hint="NAME")
            options["name"] = name
        options["body"] = _body(body, input_file)
        if stream:
            _stream(caller.stream(path, method=verb.upper(), **options))
            return
        if verb == "get" and options.pop("body") is not None:
            raise typer.BadParameter("a GET has no body")
        _print(session, getattr(caller, verb)(path, **options))

    @connected
    def named(  # noqa: PLR0913, PLR0917 - one parameter per flag
        session: Session,
        path: _Path,
        name_: _OptionalName = "",
        name: _Name = "",
        body: _Body = "",
        input_file: _InputFile = "",
        stream: _Stream = False,
        param: _Param = None,
        header: _Header = None,
    ) -> None:
        call(
            session,
            path,
            name_ or name,
            body,
            input_file,
            stream,
            params=_pairs(param, "="),
            headers=_pairs(header, ":"),
        )

    @connected
    def unnamed(  # noqa: PLR0913, PLR0917 - one parameter per flag
        session: Session,
        path: _Path,
        body: _Body = "",
        input_file: _InputFile = "",
        stream: _Stream = False,
        param: _Param = None,
        header: _Header = None,
    ) -> None:
        call(session, path, "", body, input_file, stream, params=_pairs(param, "="), headers=_pairs(header, ":"))

    to = "" if route == "openai" else " NAME"
    lines = [f"junctor inference gateway {route} {verb} v1/models{to}"]
    if verb in ("post", "put", "patch"):
        lines = [
            f"junctor inference gateway {route} {verb} v1/chat/completions{to} \\",
            '  --body \'{"model": "m", "messages": [{"role": "user", "content": "Hi"}]}\'',
        ]
    command = routes.command(verb, help=f"{verb.upper()} to a path of the provider's API.", epilog=examples(*lines))
    command(unnamed if route == "openai" else named)


for _route, _help in (
    ("model", "Route by model entity; the provider is chosen."),
    ("provider", "Route to one provider, as it is."),
    ("openai", "Route by the body's model."),
):
    _routes = group(_help, f"junctor inference gateway {_route} post v1/chat/completions --help")
    for _verb in VERBS:
        _add(_route, _verb, _routes)
    app.add_typer(_routes, name=_route)


def _body(given: str, input_file: str) -> Any:
    if given and input_file:
        raise typer.BadParameter("give --body or --input-file, not both")
    text = given
    if input_file or given.startswith("@"):
        text = read_input(input_file or given[1:])
    if not text:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"no valid JSON: {error}", param_hint="--body") from None


def _pairs(given: list[str] | None, sign: str) -> dict[str, str]:
    pairs = {}
    for entry in given or ():
        key, found, value = entry.partition(sign)
        if not found or not key.strip():
            raise typer.BadParameter(f"'{entry}' has no '{sign}'")
        pairs[key.strip()] = value.strip()
    return pairs


def _print(session: Session, answer: Any) -> None:
    if isinstance(answer, bytes):
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()
    elif isinstance(answer, dict) and session.output is not None:
        show_one(answer, session.output)
    elif answer is not None:
        typer.echo(json.dumps(answer, ensure_ascii=False, indent=2))


def _stream(opened: Any) -> None:
    with opened as stream:
        for block in stream.iter_bytes():
            sys.stdout.buffer.write(block)
            sys.stdout.buffer.flush()
