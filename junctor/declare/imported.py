"""What an import made: documents for apply, and what became of every entry of the source."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from junctor import names

Result = Literal["taken", "changed", "not possible"]

_LONGEST = 63
_KEPT = 54


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the source: what became of it, in what (``Provider openai``), and why it is not as it was."""

    entry: str
    result: Result
    into: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Imported:
    """Documents in the order of apply, and the report. ``lost``: something could not be taken over."""

    documents: Sequence[Mapping[str, Any]]
    entries: Sequence[Entry]

    @property
    def lost(self) -> bool:
        """Whether anything was not possible."""
        return any(entry.result == "not possible" for entry in self.entries)


@dataclass(slots=True)
class Report:
    """Collects entries while an import runs."""

    entries: list[Entry] = field(default_factory=list)

    def taken(self, entry: str, into: str = "", why: str = "") -> None:
        """Note what is as it was."""
        self.entries.append(Entry(entry, "taken", into, why))

    def changed(self, entry: str, into: str, why: str) -> None:
        """Note what is there in another form."""
        self.entries.append(Entry(entry, "changed", into, why))

    def lost(self, entry: str, why: str) -> None:
        """Note what could not be taken over."""
        self.entries.append(Entry(entry, "not possible", "", why))


def as_name(text: str) -> str:
    """Make a resource name of any text; empty when there is none in it. The rule of discovered entities' names."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if name[:1].isdigit():
        name = f"m-{name}"
    if len(name) > _LONGEST:
        name = f"{name[:_KEPT].rstrip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return name if names.is_name(name) else ""
