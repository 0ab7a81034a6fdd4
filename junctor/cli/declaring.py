"""``junctor apply``, ``diff`` and ``export``: resources as files."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from junctor.cli import yaml
from junctor.cli.declare_report import show, show_diff
from junctor.cli.failure import Failure
from junctor.cli.options import Output
from junctor.cli.session import Session, connected
from junctor.declare import execute, export, planning
from junctor.declare.documents import Document, Key, understand
from junctor.declare.execute import Outcome, Send
from junctor.declare.kinds import BY_NAME, KINDS, SECRET
from junctor.declare.planning import Step, Wanted
from junctor.declare.problems import BadFiles, Place, Problem
from junctor.declare.reading import Source, read

DIFFERENT = 3
"""Exit code of a diff that found something."""

_SUFFIXES = (".yaml", ".yml", ".json")

_Output = Annotated[
    Output | None,
    typer.Option("-o", "--output", help="How to print [a terminal: table, else json].", show_default=False),
]
Files = Annotated[
    list[str],
    typer.Option("-f", "--file", help="File or folder of YAML or JSON; - is stdin; repeatable.", metavar="FILE"),
]
Owner = Annotated[
    str,
    typer.Option("--owner", envvar="JUNCTOR_OWNER", help="Mark what is written as this configuration's."),
]
Prune = Annotated[bool, typer.Option("--prune", help="Delete what has this owner and is in no file.")]
TakeOver = Annotated[bool, typer.Option("--take-over", help="Write also what another owner has marked.")]
Inline = Annotated[bool, typer.Option("--inline-secrets", help="Take secrets' values that the files hold.")]
Empty = Annotated[bool, typer.Option("--allow-empty", help="Prune also when the files say nothing.")]


def declared(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command whose bad files are told one line each; ``-f`` is not its format, but its files."""

    @functools.wraps(function)
    def guarded(session: Session, *arguments: Any, **flags: Any) -> None:
        try:
            function(session, *arguments, **flags)
        except BadFiles as bad:
            for problem in bad.problems:
                typer.echo(str(problem), err=True)
            count = len(bad.problems)
            raise Failure(f"nothing was changed: {count} problem{'' if count == 1 else 's'}") from None

    return connected(guarded, output=_Output)


@declared
def apply(  # noqa: PLR0913, PLR0917 - one parameter per flag
    session: Session,
    file: Files,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    prune: Prune = False,
    owner: Owner = "",
    take_over: TakeOver = False,
    inline_secrets: Inline = False,
    allow_empty: Empty = False,
) -> None:
    """Make resources what files say; what is so already is left alone.

    Everything is checked before anything is written. A failed write holds up only what needs it.

    \b
    Examples:
      junctor apply -f gateway.yaml
      junctor apply -f config/ --owner platform --prune
      junctor export | junctor apply -f -          changes nothing

    \b
    Exit codes: 0 done, 1 something failed or the files are bad (then nothing
    was changed), 2 wrong usage.
    """
    wanted = Given(file, owner, prune=prune, take_over=take_over, inline=inline_secrets, empty=allow_empty)
    documents = _documents(wanted, session.workspace)
    steps, values = planned(session.client.send, documents, wanted, dry=dry_run)
    if dry_run:
        show([_would(step) for step in steps], session.output, dry=True)
        return
    outcomes = list(execute.run(session.client.send, steps, values))
    show(outcomes, session.output)
    if failed(outcomes):
        raise typer.Exit(1)


def failed(outcomes: Sequence[Outcome]) -> bool:
    """Tell whether anything is not as it was to be."""
    return any(outcome.result in ("failed", "skipped") for outcome in outcomes)


@declared
def diff(  # noqa: PLR0913, PLR0917 - one parameter per flag
    session: Session,
    file: Files,
    prune: Prune = False,
    owner: Owner = "",
    take_over: TakeOver = False,
    inline_secrets: Inline = False,
    allow_empty: Empty = False,
) -> None:
    """Show field by field what apply would change. Values of secrets cannot be compared: nothing returns them.

    \b
    Examples:
      junctor diff -f gateway.yaml
      junctor diff -f config/ --owner platform --prune -o json

    \b
    Exit codes: 0 no difference, 1 it failed or the files are bad,
    2 wrong usage, 3 there are differences.
    """
    wanted = Given(file, owner, prune=prune, take_over=take_over, inline=inline_secrets, empty=allow_empty)
    documents = _documents(wanted, session.workspace)
    steps, _ = planned(session.client.send, documents, wanted, dry=True)
    different = [step for step in steps if step.action != "unchanged"]
    show_diff(steps, session.output)
    if different:
        raise typer.Exit(DIFFERENT)


@dataclass(frozen=True, slots=True)
class Given:
    """What a command was given. Raises a usage error for what does not go together."""

    files: Sequence[str]
    owner: str
    prune: bool = False
    take_over: bool = False
    inline: bool = False
    empty: bool = False

    def __post_init__(self) -> None:
        if self.prune and not self.owner:
            raise typer.BadParameter("needs --owner: only what has that mark is deleted", param_hint="--prune")


def planned(send: Send, documents: Sequence[Document], given: Given, *, dry: bool) -> tuple[list[Step], dict[Key, str]]:
    """Check and compare. Raises BadFiles, JunctorError; nothing is written."""
    values, lacking = execute.values(documents)
    if lacking and not dry:
        raise BadFiles(lacking)
    canonical, refused = execute.canonical(send, documents, values)
    if refused:
        raise BadFiles(refused)
    there = execute.current(send, None if given.prune else {one.workspace for one in documents})
    notes = _notes(documents, lacking) if dry else {}
    wanted = Wanted(documents, canonical, given.owner, given.prune, given.take_over, notes)
    return planning.plan(wanted, there), values


def _notes(documents: Sequence[Document], lacking: Sequence[Problem]) -> dict[Key, str]:
    rules = {problem.place: problem.rule for problem in lacking}
    return {
        one.key: rules.get(one.source.place(("value_from", one.value.kind)), "its value is compared when it is applied")
        for one in documents
        if one.kind is SECRET and one.value is not None
    }


def _documents(given: Given, workspace: str) -> list[Document]:
    sources: list[Source] = []
    problems: list[Problem] = []
    for name, text in _texts(given.files):
        try:
            sources += read(text, name)
        except BadFiles as bad:
            problems += bad.problems
    found: list[Document] = []
    try:
        found = understand(sources, workspace=workspace, inline=given.inline)
    except BadFiles as bad:
        problems += bad.problems
    if not found and not problems and given.prune and not given.empty:
        rule = "says nothing: that would prune everything of this owner; allow it with --allow-empty"
        problems.append(Problem(Place(", ".join(given.files)), "", rule))
    if problems:
        raise BadFiles(problems)
    return found


def _texts(files: Sequence[str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for given in files:
        if given == "-":
            found.append(("<stdin>", _decoded(sys.stdin.buffer.read(), "<stdin>")))
            continue
        path = Path(given)
        inside = sorted(each for each in path.rglob("*") if each.suffix in _SUFFIXES and each.is_file())
        if path.is_dir() and not inside:
            raise Failure(f"{given} has no file that ends in {', '.join(_SUFFIXES)}")
        for each in inside if path.is_dir() else [path]:
            try:
                found.append((str(each), _decoded(each.read_bytes(), str(each))))
            except OSError as error:
                raise Failure(f"cannot read {each}: {error.strerror}") from None
    return found


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadFiles([Problem(Place(name), "", "is not UTF-8")]) from None


_DONE: Mapping[str, Any] = {"create": "created", "change": "changed", "prune": "pruned", "unchanged": "unchanged"}


def _would(step: Step) -> Outcome:
    return Outcome(step, _DONE[step.action], tuple(change.field for change in step.changes), step.note)


@functools.partial(connected, output=_Output)
def export_command(
    session: Session,
    all_workspaces: Annotated[bool, typer.Option("-A", "--all-workspaces", help="Of every workspace.")] = False,
    kind: Annotated[list[str] | None, typer.Option("--kind", help="Only this kind; repeatable.")] = None,
    with_versions: Annotated[
        bool, typer.Option("--with-versions", help="With resource_version: apply then fails if others were faster.")
    ] = False,
) -> None:
    """Write a workspace's resources as files for apply, to standard output; -o json for JSON.

    Left out is what junctor makes by itself: virtual models of served models, entities as discovery made them,
    fields that the server sets. Values of secrets stay where they are.

    \b
    Examples:
      junctor export > gateway.yaml
      junctor export -A --kind Provider --kind VirtualModel
    """
    unknown = [each for each in kind or () if each not in BY_NAME]
    if unknown:
        known = ", ".join(each.name for each in KINDS)
        raise typer.BadParameter(f"'{unknown[0]}' is none of {known}", param_hint="--kind")
    there = execute.current(session.client.send, None if all_workspaces else [session.workspace])
    if not all_workspaces:
        here = session.workspace
        there = {key: found for key, found in there.items() if key[1] == here or key[1:] == ("", here)}
    documents = list(export.documents(there, kinds=kind or (), versions=with_versions))
    if session.output is Output.JSON:
        session.show_all(documents, (), whole=documents)
    elif session.output in (None, Output.YAML):
        typer.echo("".join(f"---\n{yaml.dump(document)}" for document in documents), nl=False)
    else:
        raise typer.BadParameter("is yaml or json for an export", param_hint="--output")
    if not documents:
        typer.echo("nothing there yet", err=True)
