"""What is wrong with a file, and where: file, document, line, field and rule."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A line of a file. ``document`` counts from 1; 0: the file as a whole, as ``line`` 0 is."""

    file: str
    document: int = 0
    line: int = 0

    def __str__(self) -> str:
        parts = [self.file]
        if self.document:
            parts.append(f"document {self.document}")
        if self.line:
            parts.append(f"line {self.line}")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One rule that is broken. ``field`` is empty where the document as a whole is meant."""

    place: Place
    field: str
    rule: str

    def __str__(self) -> str:
        return f"{self.place}: {self.field}: {self.rule}" if self.field else f"{self.place}: {self.rule}"


class BadFiles(Exception):
    """Files that cannot be used; ``problems`` has everything that was found. Nothing was changed."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))
