"""Text tables: as wide as the terminal, the widest columns give way first. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

GAP = "  "
_LEAST = 6
"""Columns narrower than this do not shrink."""

_COLOURS = {
    **dict.fromkeys(("READY", "ACTIVE", "ready", "healthy", "ok"), "32"),
    **dict.fromkeys(("CREATED", "PENDING", "DRAINING", "UNKNOWN", "warn"), "33"),
    **dict.fromkeys(("ERROR", "LOST", "DISABLED", "DELETING", "not ready", "unhealthy", "fail"), "31"),
}
"""Words that have a colour when they are a whole cell."""


def fitted(titles: Sequence[str], rows: Sequence[Sequence[str]], limit: int, *, colour: bool = False) -> str:
    """Write a table no wider than ``limit`` as far as that is possible."""
    widths = _widths([[measure(cell) for cell in row] for row in (titles, *rows)], limit)
    lines = [_line(titles, widths, code="1" if colour else "")]
    lines += [_line(row, widths, colour=colour) for row in rows]
    return "\n".join(lines)


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def measure(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(_letter(letter) for letter in text)


def cut(text: str, limit: int) -> str:
    """Shorten a text to ``limit`` columns; the last is then an ellipsis."""
    if measure(text) <= limit:
        return text
    kept, used = [], 0
    for letter in text:
        used += _letter(letter)
        if used > limit - 1:
            break
        kept.append(letter)
    return "".join(kept) + "…"


def _letter(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _widths(measured: Sequence[Sequence[int]], limit: int) -> list[int]:
    widths = [max(column) for column in zip(*measured, strict=True)]
    room = limit - len(GAP) * (len(widths) - 1)
    while sum(widths) > room and max(widths) > _LEAST:
        widest = widths.index(max(widths))
        widths[widest] = max(_LEAST, widths[widest] - (sum(widths) - room), _second(widths))
    return widths


def _second(widths: Sequence[int]) -> int:
    """Return the width to shrink the widest to before the next takes its turn."""
    ordered = sorted(widths)
    return ordered[-2] if len(ordered) > 1 and ordered[-2] < ordered[-1] else ordered[-1] - 1


def _line(cells: Sequence[str], widths: Sequence[int], *, colour: bool = False, code: str = "") -> str:
    written = []
    for cell, width in zip(cells, widths, strict=True):
        text = cut(cell, width)
        padding = " " * (width - measure(text))
        shade = code or (_COLOURS.get(cell, "") if colour else "")
        written.append((f"\x1b[{shade}m{text}\x1b[0m" if shade else text) + padding)
    return GAP.join(written).rstrip()
