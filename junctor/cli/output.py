"""Prints results: a table for people, JSON, YAML, CSV or Markdown for programs and papers.

JSON is the server's object with nothing left out, so scripts that read it keep working when a table changes.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typer

from junctor.cli import tables, yaml
from junctor.cli.options import Output

Row = Mapping[str, Any]
_NO_LIMIT = 10_000
"""Columns of the screen, when there is none to fit."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its title, and the key of the object or a function that tells the cell."""

    title: str
    cell: str | Callable[[Row], Any]

    def of(self, row: Row) -> str:
        """Return the cell's text, on one line and without control characters."""
        value = self.cell(row) if callable(self.cell) else row.get(self.cell)
        return plain(value)


def plain(value: Any) -> str:
    """Write a value for people."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple) and all(isinstance(entry, str) for entry in value):
        text = ", ".join(value)
    elif isinstance(value, list | dict | tuple):
        text = json.dumps(value, ensure_ascii=False)
    else:
        text = str(value)
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())


def day(key: str) -> Callable[[Row], str]:
    """Make a cell that shows a time to the minute."""
    return lambda row: str(row.get(key) or "")[:16].replace("T", " ")


def chosen(wanted: Output | None) -> Output:
    """Return the format: the one asked for, else a table on a terminal and JSON into a pipe."""
    return wanted or (Output.TABLE if sys.stdout.isatty() else Output.JSON)


def coloured() -> bool:
    """Tell whether to colour: on a terminal that can, unless ``NO_COLOR`` is set."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width() -> int:
    """Return the width to fit: the terminal's, and for a pipe no limit."""
    fixed = os.environ.get("COLUMNS", "")
    if sys.stdout.isatty() or fixed.isdecimal():
        return shutil.get_terminal_size().columns
    return _NO_LIMIT


def show_all(
    rows: Sequence[Row], columns: Sequence[Column], wanted: Output | None, *, whole: Any = None, cut: bool = True
) -> None:
    """Print a list; ``whole`` is what JSON and YAML show instead of the rows. ``cut``: cells, to fit the screen."""
    form = chosen(wanted)
    if form in (Output.JSON, Output.YAML):
        _document(rows if whole is None else whole, form)
        return
    titles = [column.title for column in columns]
    cells = [[column.of(row) for column in columns] for row in rows]
    if form is Output.CSV:
        written = io.StringIO()
        csv.writer(written, lineterminator="\n").writerows([titles, *cells])
        typer.echo(written.getvalue(), nl=False)
    elif form is Output.MARKDOWN:
        typer.echo(tables.markdown(titles, cells))
    elif cells:
        typer.echo(tables.fitted(titles, cells, width() if cut else _NO_LIMIT, colour=coloured()), color=coloured())
    else:
        typer.echo("nothing there yet", err=True)


def show_one(row: Row, wanted: Output | None) -> None:
    """Print one object; a table has a line for each field that is set."""
    form = chosen(wanted)
    if form in (Output.JSON, Output.YAML):
        _document(row, form)
        return
    fields = [{"field": key, "value": value} for key, value in row.items() if value not in (None, [], {}, "")]
    show_all(fields, (Column("FIELD", "field"), Column("VALUE", "value")), form)


def _document(value: Any, form: Output) -> None:
    if form is Output.YAML:
        typer.echo(yaml.dump(value), nl=False)
    else:
        typer.echo(json.dumps(value, ensure_ascii=False, indent=2))
