"""Every row of the contract's pages in ``docs`` names tests, and every test that it names exists."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {"contract.md": 100, "contract-inference.md": 40}
"""With the number of rows that each has at least."""
_ROW = re.compile(r"\| (?!Rule |---)(.*) \| (.*?) \|")
_NAME = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)(?:\[([^`]+)\])?`")


def rows(page: str) -> list[tuple[str, str]]:
    lines = (ROOT / "docs" / page).read_text().splitlines()
    found = [_ROW.fullmatch(line) for line in lines if line.startswith("| ") and not line.startswith("| Rule")]
    assert all(found)
    return [(row[1], row[2]) for row in found if row is not None]


@cache
def functions(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("page", PAGES)
def test_every_row_names_tests_and_nothing_else(page: str) -> None:
    assert len(rows(page)) > PAGES[page]
    for rule, shown in rows(page):
        assert _NAME.findall(shown), rule
        assert _NAME.sub("", shown).replace("<br>", "").strip() == "", rule


@pytest.mark.parametrize("page", PAGES)
def test_every_named_test_exists(page: str) -> None:
    named = {(match[1], match[2]) for _, shown in rows(page) for match in _NAME.finditer(shown)}
    missing = [f"{path}::{name}" for path, name in named if name not in functions(path)]
    assert missing == []


def cases(ids: Iterable[str]) -> set[str]:
    """Node ids as the table writes them: no spaces, and without the engine that tables on both databases add."""
    plain = (name.replace(" ", "_").removesuffix("]") for name in ids)
    return {re.sub(r"(?<=\[)(?:sqlite|postgresql)-|-(?:sqlite|postgresql)$", "", name) for name in plain}


def collected(files: Iterable[str]) -> list[str]:
    """Node ids of whole files, asked of a pytest of its own."""
    options = ["--collect-only", "-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    command = [sys.executable, "-m", "pytest", *options, *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.splitlines()


def test_every_named_case_of_a_table_exists(request: pytest.FixtureRequest) -> None:
    shown_by = [shown for page in PAGES for _, shown in rows(page)]
    named = {match[0].strip("`") for shown in shown_by for match in _NAME.finditer(shown) if match[3]}
    here = cases(item.nodeid for item in request.session.items)  # all of them when the whole suite runs
    elsewhere = {name for name in named if name.removesuffix("]") not in here}
    if elsewhere:
        here |= cases(collected(sorted({name.partition("::")[0] for name in elsewhere})))
    assert sorted(name for name in elsewhere if name.removesuffix("]") not in here) == []
