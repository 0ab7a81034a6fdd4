"""The commands that every resource has (list, get, create, update, delete), made from a table of its fields."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from junctor.cli.inputs import InputData, InputFile, given_object
from junctor.cli.listing import Columns, NoTruncate, chosen_columns, pagination
from junctor.cli.output import Column
from junctor.cli.session import Session, connected
from junctor.client import Client

FieldKind = Literal["text", "json", "list", "number", "flag"]
_OTHER_TYPES: Mapping[str, Any] = {"list": list[str] | None, "number": int | None, "flag": bool | None}


_EXAMPLE_WIDTH = 74


@dataclass(frozen=True, slots=True)
class Field:
    """One field that a flag writes: ``host_url`` is ``--host-url``."""

    key: str
    help: str
    kind: FieldKind = "text"

    @property
    def flag(self) -> str:
        """The flag, for a yes-or-no field both."""
        name = self.key.replace("_", "-")
        return f"--{name}/--no-{name}" if self.kind == "flag" else f"--{name}"

    def parameter(self) -> inspect.Parameter:
        """Write the flag as a parameter of a command."""
        metavar = {"json": "JSON", "number": "N", "flag": None}.get(self.kind, "TEXT")
        option = typer.Option(self.flag, help=self.help, metavar=metavar, show_default=False)
        annotation: Any = Annotated[_OTHER_TYPES.get(self.kind, str | None), option]
        return inspect.Parameter(self.key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)

    def value(self, given: Any) -> Any:
        """Return what to send. Raises a usage error for a flag that holds no JSON."""
        if self.kind != "json":
            return given
        try:
            return json.loads(given)
        except ValueError as error:
            raise typer.BadParameter(f"no valid JSON: {error}", param_hint=self.flag) from None


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource as commands show it. ``path``: the group (``inference providers``)."""

    path: str
    one: str
    columns: Sequence[Column]
    collection: Callable[[Client], Any]
    fields: Sequence[Field] = ()
    example: str = ""
    """Flags of the examples of create and update."""
    in_workspace: bool = True
    required: Sequence[str] = ()
    """Fields that create and update must be given."""
    after: str = ""
    """What to run after a create, shown at a terminal; ``{name}`` and ``{workspace}`` are filled in."""

    def scope(self, session: Session) -> dict[str, str]:
        """Return the workspace as a keyword argument, where there is one."""
        return {"workspace": session.workspace} if self.in_workspace else {}


def examples(*lines: str) -> str:
    """Write the epilog of a command's help; a line too long for the screen goes on below itself."""
    return "\b\nExamples:\n" + "\n".join(f"  {_folded(line)}" for line in lines)


def _folded(line: str) -> str:
    if len(line) <= _EXAMPLE_WIDTH:
        return line
    first = line.rindex(" ", 0, _EXAMPLE_WIDTH - 2)
    while line[first + 1] not in "-<" and " -" in line[:first]:
        first = line.rindex(" ", 0, first)
    return f"{line[:first]} \\\n      {line[first + 1 :]}"


def group(help_line: str, *lines: str, cls: type[TyperGroup] | None = None) -> typer.Typer:
    """Make a group of commands; ``lines`` are the examples in its help."""
    app = typer.Typer(
        cls=cls,
        help=help_line,
        epilog=examples(*lines),
        no_args_is_help=True,
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_no_options)  # without it a group of one command would be that command
    return app


def _no_options() -> None: ...


def add_reads(app: typer.Typer, resource: Resource) -> None:
    """Add list, get and delete."""
    path = f"junctor {resource.path}"

    @app.command(
        "list",
        help=f"List {resource.one}s.",
        epilog=examples(f"{path} list", f"{path} list --filter 'name~\"a\"' --sort -created_at -o csv"),
    )
    @connected
    def list_(  # noqa: PLR0913, PLR0917 - one parameter per flag
        session: Session,
        filter_: Annotated[
            str, typer.Option("--filter", help='Such as name~"llama" or JSON.', show_default=False)
        ] = "",
        sort: Annotated[str, typer.Option("--sort", help="A field; - before it: descending.", show_default=False)] = "",
        page: Annotated[int | None, typer.Option("--page", min=1, help="One page alone.")] = None,
        page_size: Annotated[
            int | None, typer.Option("--page-size", min=1, max=1000, help="Items asked for at once.")
        ] = None,
        columns: Columns = "",
        no_truncate: NoTruncate = False,
        all_pages: Annotated[bool, typer.Option("--all-pages", hidden=True, help="What it does anyway.")] = False,
    ) -> None:
        listing = resource.collection(session.client).list(
            **resource.scope(session), filter=filter_ or None, sort=sort or None, page_size=page_size
        )
        pages = [listing.page(page)] if page and not all_pages else list(listing.pages())
        rows = [record.raw for part in pages for record in part.data]
        shown = chosen_columns(columns, resource.columns, rows)
        whole = {"data": rows, "pagination": pagination(pages, len(rows))}
        session.show_all(rows, shown, whole=whole, cut=not no_truncate)

    @app.command("get", help=f"Show one {resource.one}.", epilog=examples(f"{path} get NAME -o yaml"))
    @connected
    def get(session: Session, name: Annotated[str, typer.Argument(metavar="NAME", help="Its name.")]) -> None:
        session.show(resource.collection(session.client).get(name, **resource.scope(session)))

    @app.command("delete", help=f"Delete {resource.one}s.", epilog=examples(f"{path} delete NAME"))
    @connected
    def delete(session: Session, name: Annotated[list[str], typer.Argument(metavar="NAME", help="Names.")]) -> None:
        for each in name:
            resource.collection(session.client).delete(each, **resource.scope(session))
            typer.echo(f"{resource.one} {each} deleted", err=True)


def add_writes(app: typer.Typer, resource: Resource, *, replaces: bool = False, updates: bool = True) -> None:
    """Add create and update; ``replaces``: an update drops what it does not name; ``updates`` False: create alone."""
    path = f"junctor {resource.path}"

    def create(session: Session, name: str | None, exist_ok: bool, **flags: Any) -> None:
        fields = _given(resource, flags)
        named = name or fields.pop("name", None)
        if not named:
            raise typer.BadParameter("missing: give NAME, or a name in --input-file", param_hint="NAME")
        fields.pop("name", None)
        scope = {**resource.scope(session), "exist_ok": exist_ok}
        session.show(resource.collection(session.client).create(str(named), **scope, **fields))
        if resource.after and sys.stdout.isatty():
            typer.echo("\n" + resource.after.format(name=named, workspace=session.workspace), err=True)

    def update(session: Session, name: str, **flags: Any) -> None:
        fields = _given(resource, flags)
        fields.pop("name", None)
        session.show(resource.collection(session.client).update(name, **resource.scope(session), **fields))

    hint = f"{path} create NAME {resource.example}".rstrip()
    app.command(
        "create",
        help=f"Create a {resource.one}.",
        epilog=examples(hint, f"{path} create --input-file - --exist-ok < {resource.one.replace(' ', '-')}.json"),
    )(connected(_with(create, [_OPTIONAL_NAME, *_fields(resource), _INPUT_FILE, _INPUT_DATA, _EXIST_OK])))
    if not updates:
        return
    told = "Replace a {}: what is not named is dropped." if replaces else "Change a {}: what is not named is kept."
    app.command(
        "update", help=told.format(resource.one), epilog=examples(f"{path} update NAME {resource.example}".rstrip())
    )(connected(_with(update, [_NAME, *_fields(resource), _INPUT_FILE, _INPUT_DATA])))


def _given(resource: Resource, flags: Mapping[str, Any]) -> dict[str, Any]:
    fields = given_object(flags["input_file"], flags["input_data"])
    fields.pop("workspace", None)
    for field in resource.fields:
        if flags.get(field.key) not in (None, []):
            fields[field.key] = field.value(flags[field.key])
    for key in resource.required:
        if key not in fields:
            raise typer.BadParameter(f"missing: --{key.replace('_', '-')}")
    return fields


def _fields(resource: Resource) -> list[inspect.Parameter]:
    return [field.parameter() for field in resource.fields]


def _with(function: Callable[..., None], parameters: Sequence[inspect.Parameter]) -> Callable[..., None]:
    session = inspect.Parameter("session", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    function.__signature__ = inspect.Signature([session, *parameters])  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return function


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_NAME = _parameter("name", Annotated[str, typer.Argument(metavar="NAME", help="Its name.")])
_OPTIONAL_NAME = _parameter(
    "name", Annotated[str | None, typer.Argument(metavar="NAME", help="Its name.", show_default=False)], None
)
_EXIST_OK = _parameter("exist_ok", Annotated[bool, typer.Option("--exist-ok", help="Accept one that is there.")], False)
_INPUT_FILE = _parameter("input_file", InputFile, "")
_INPUT_DATA = _parameter("input_data", InputData, "")
