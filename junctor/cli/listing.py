"""How a list is shown: which columns, cut to the screen or whole; and pages put together as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from junctor.cli.output import Column, Row

Columns = Annotated[
    str,
    typer.Option(
        "-c", "--output-columns", help="Fields to show, with commas between; all: every one.", show_default=False
    ),
]
NoTruncate = Annotated[bool, typer.Option("--no-truncate", help="Do not cut cells to fit the screen.")]


def chosen_columns(wanted: str, usual: Sequence[Column], rows: Sequence[Row]) -> Sequence[Column]:
    """Return the columns to show: the usual ones, all fields, or the named ones. Raises a usage error.

    A name is a field's (``created_at``) or a usual column's title, in any case, with ``_`` or ``-`` for spaces.
    """
    if wanted in ("", "default"):
        return usual
    fields = list(dict.fromkeys(key for row in rows for key in row))
    if wanted == "all":
        return [_plain(field) for field in fields] or usual
    known = {column.title.lower().replace(" ", "_"): column for column in usual}
    known |= {field: _plain(field) for field in fields}
    names = [name.strip().lower().replace("-", "_") for name in wanted.split(",") if name.strip()]
    if rows and (unknown := [name for name in names if name not in known]):
        raise typer.BadParameter(
            f"no field '{unknown[0]}'; there are: {', '.join(sorted(known))}", param_hint="--output-columns"
        )
    return [known.get(name) or _plain(name) for name in names]


def pagination(pages: Sequence[Any], count: int) -> dict[str, int]:
    """Tell one page as it is, several as one that holds everything."""
    last = pages[-1]
    if len(pages) == 1:
        return {
            "page": last.number,
            "page_size": last.size,
            "current_page_size": count,
            "total_pages": last.total_pages,
            "total_results": last.total_results,
        }
    total = last.total_results
    return {"page": 1, "page_size": count, "current_page_size": count, "total_pages": 1, "total_results": total}


def _plain(field: str) -> Column:
    return Column(field.upper().replace("_", " "), field)
