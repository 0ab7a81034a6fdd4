"""``junctor import``: other gateways' configurations as documents for apply."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from junctor.cli import output, tables, yaml
from junctor.cli.crud import examples, group
from junctor.cli.declare_report import show
from junctor.cli.declaring import Given, declared, failed, planned
from junctor.cli.failure import Failure
from junctor.cli.inputs import read_input
from junctor.cli.options import Output
from junctor.cli.output import Column
from junctor.cli.session import Session, opened
from junctor.declare import execute, litellm, nemo
from junctor.declare.documents import called, understand
from junctor.declare.execute import Outcome, Send
from junctor.declare.imported import Imported
from junctor.declare.problems import BadFiles, Place, Problem
from junctor.declare.reading import Source, read

LOST = 2
"""Exit code of an import that could not take everything over."""

_COLUMNS = (Column("ENTRY", "entry"), Column("RESULT", "result"), Column("INTO", "into"), Column("WHY", "why"))

app = group(
    "Take over other gateways' configurations.",
    "junctor import litellm config.yaml > gateway.yaml",
    "junctor import nemo --base-url http://nemo.example:8080 -w team --apply",
)

_Out = Annotated[str, typer.Option("--out", help="File for the documents; - is stdout.", metavar="FILE")]
_Apply = Annotated[bool, typer.Option("--apply", help="Apply the documents instead of writing them.")]
_Owner = Annotated[str, typer.Option("--owner", envvar="JUNCTOR_OWNER", help="With --apply: mark what is written.")]
_Inline = Annotated[bool, typer.Option("--inline-secrets", help="Take keys that the file holds, as text.")]


@app.command("litellm", epilog=examples("junctor import litellm config.yaml > gateway.yaml"))
@declared
def litellm_command(
    session: Session,
    file: Annotated[str, typer.Argument(metavar="FILE", help="LiteLLM's config.yaml; - is stdin.")],
    out: _Out = "-",
    apply: _Apply = False,
    owner: _Owner = "",
    inline_secrets: _Inline = False,
) -> None:
    """Convert LiteLLM's config.yaml, with a report.

    Every entry is reported as taken, changed or not possible.

    Exit codes: 0 everything was taken or changed, 1 it failed, 2 something was not possible, or wrong usage.
    """
    sources = read(read_input(file), "<stdin>" if file == "-" else file)
    if len(sources) != 1:
        raise BadFiles([Problem(Place(file), "", "must hold one document: LiteLLM's configuration")])
    made = litellm.convert(
        sources[0].value, workspace=session.workspace, variables=os.environ.get, inline=inline_secrets
    )
    _finish(made, session, out, None if not apply else session.client.send, Given([], owner, inline=True))


@app.command("nemo", epilog=examples("junctor import nemo --base-url http://nemo.example:8080 -w team > team.yaml"))
@declared
def nemo_command(
    session: Session,
    all_workspaces: Annotated[bool, typer.Option("-A", "--all-workspaces", help="Every workspace.")] = False,
    out: _Out = "-",
    apply: _Apply = False,
    to: Annotated[str, typer.Option("--to", help="With --apply: where junctor is.", show_default=False)] = "",
    owner: _Owner = "",
) -> None:
    """Convert a workspace of a NeMo platform, with a report.

    It is read from the platform at --base-url; every entry is reported.

    Exit codes: 0 everything was taken or changed, 1 it failed, 2 something was not possible, or wrong usage.
    """
    if apply and not to:
        raise typer.BadParameter("--apply needs --to: the address of junctor", param_hint="--to")
    here = session.workspace
    there = execute.current(session.client.send, None if all_workspaces else [here])
    if not all_workspaces:
        there = {key: found for key, found in there.items() if key[1] == here or key[1:] == ("", here)}
        if not there:
            raise Failure(f"there is no workspace '{here}' at {session.client.settings.base_url}")
    made = nemo.convert(there)
    if not apply:
        _finish(made, session, out, None, Given([], owner))
        return
    with opened(base_url=to) as client:
        _finish(made, session, out, client.send, Given([], owner))


def _finish(made: Imported, session: Session, out: str, send: Send | None, given: Given) -> None:
    """Write or apply the documents, show the report, and end with the exit code."""
    outcomes = [] if send is None else _applied(made, send, given, session.workspace)
    written = "".join(f"---\n{yaml.dump(document)}" for document in made.documents)
    if send is None and out != "-":
        try:
            Path(out).write_text(written, "utf-8")
        except OSError as error:
            raise Failure(f"cannot write {out}: {error.strerror}") from None
    if session.output is Output.JSON:
        _show_json(made, outcomes, applied=send is not None)
    else:
        if send is None and out == "-":
            typer.echo(written, nl=False)
        _show_report(made)
        if outcomes:
            show(outcomes, session.output)
    if failed(outcomes):
        raise typer.Exit(1)
    if made.lost:
        raise typer.Exit(LOST)


def _applied(made: Imported, send: Send, given: Given, workspace: str) -> list[Outcome]:
    sources = [Source("import", number, document) for number, document in enumerate(made.documents, 1)]
    documents = understand(sources, workspace=workspace, inline=True)
    steps, values = planned(send, documents, given, dry=False)
    return list(execute.run(send, steps, values))


def _show_json(made: Imported, outcomes: Sequence[Outcome], *, applied: bool) -> None:
    done = [{"resource": called(each.step.key), "result": each.result, "why": each.why} for each in outcomes]
    report = [asdict(entry) for entry in made.entries]
    # What was applied needs no values in the output; in a file for apply they were asked for.
    documents = [{key: each[key] for key in each if not (applied and key == "value")} for each in made.documents]
    whole = {"documents": documents, "report": report, "summary": _summary(made), "applied": done}
    output.show_all(report, _COLUMNS, Output.JSON, whole=whole)


def _show_report(made: Imported) -> None:
    """Print the report on standard error: standard output has the documents."""
    cells = [[column.of(asdict(entry)) for column in _COLUMNS] for entry in made.entries]
    if cells:
        typer.echo(tables.fitted([column.title for column in _COLUMNS], cells, output.width()), err=True)
    told = ", ".join(f"{count} {result}" for result, count in _summary(made).items()) or "nothing there"
    typer.echo(told, err=True)


def _summary(made: Imported) -> dict[str, int]:
    return dict(Counter(entry.result for entry in made.entries))
