"""Every row of ``docs/contract-inference.md`` names tests, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
_ROW = re.compile(r"\| (?!Rule |---)(.*) \| (.*?) \|")
_NAME = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows() -> list[tuple[str, str]]:
    lines = (ROOT / "docs" / "contract-inference.md").read_text().splitlines()
    found = [_ROW.fullmatch(line) for line in lines if line.startswith("| ") and not line.startswith("| Rule")]
    assert all(found)
    return [(row[1], row[2]) for row in found if row is not None]


@cache
def functions(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_row_names_tests_and_nothing_else() -> None:
    assert len(rows()) > 40
    for rule, shown in rows():
        assert _NAME.findall(shown), rule
        assert _NAME.sub("", shown).replace("<br>", "").strip() == "", rule


def test_every_named_test_exists() -> None:
    named = {(match[1], match[2]) for _, shown in rows() for match in _NAME.finditer(shown)}
    assert [f"{path}::{name}" for path, name in named if name not in functions(path)] == []
