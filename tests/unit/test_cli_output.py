"""What commands print: tables that fit, YAML that is read back, lines that say what to do next."""

from __future__ import annotations

from typing import Any

import pytest

from junctor import errors
from junctor.cli import advice, tables, yaml
from junctor.cli.crud import examples
from junctor.cli.output import Column, plain

TITLES = ["NAME", "URL"]
ROWS = [["short", "http://" + "x" * 60], ["a-rather-long-name", "http://y"]]


@pytest.mark.parametrize("limit", [100, 60, 40, 20])
def test_a_table_is_no_wider_than_the_terminal(limit: int) -> None:
    lines = tables.fitted(TITLES, ROWS, limit).splitlines()
    assert len(lines) == 3
    assert max(map(tables.measure, lines)) <= limit


def test_the_widest_column_gives_way_first() -> None:
    shown = tables.fitted(TITLES, ROWS, 50)
    assert "a-rather-long-name" in shown
    assert shown.splitlines()[1].endswith("x…")


def test_a_table_too_wide_for_any_terminal_still_has_every_column() -> None:
    row = [str(number) * 20 for number in range(8)]
    assert len(tables.fitted(row, [row], 10).splitlines()[0].split()) == 8


def test_wide_letters_count_double_and_cells_are_padded() -> None:
    assert tables.cut("漢字漢字", 5) == "漢字…"
    assert tables.measure("e\u0301") == 1
    assert tables.fitted(["A", "B"], [["漢", "x"]], 80) == "A   B\n漢  x"


def test_colour_is_only_there_when_asked_for() -> None:
    assert "\x1b" not in tables.fitted(["STATUS"], [["READY"]], 80)
    assert "\x1b[32mREADY\x1b[0m" in tables.fitted(["STATUS"], [["READY"]], 80, colour=True)


def test_markdown_escapes_bars() -> None:
    assert tables.markdown(["A"], [["x|y"]]) == "| A |\n| --- |\n| x\\|y |"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": 1, "b": [], "c": {}}, "a: 1\nb: []\nc: {}\n"),
        ({"a": {"b": [1, {"c": None, "d": [True]}]}}, "a:\n  b:\n    - 1\n    - c: null\n      d:\n        - true\n"),
        ([["x"], "no", "1", "a b", "ö: #", ""], '- - x\n- "no"\n- "1"\n- "a b"\n- "ö: #"\n- ""\n'),
        ("x\ny", '"x\\ny"\n'),
        ([], "[]\n"),
        ({"on": "~", "two words": "2026-01-01"}, '"on": "~"\n"two words": "2026-01-01"\n'),
    ],
)
def test_yaml(value: Any, text: str) -> None:
    assert yaml.dump(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "yes"),
        (["a", "b"], "a, b"),
        ([{"a": 1}], '[{"a": 1}]'),
        ("two\nlines\x1b[31m", "two lines[31m"),
        (3, "3"),
    ],
)
def test_cells_are_one_line_without_control_characters(value: Any, text: str) -> None:
    assert plain(value) == Column("T", "key").of({"key": value}) == text


@pytest.mark.parametrize(
    ("error", "command", "line"),
    [
        (errors.PeerUnavailable("cannot connect to http://localhost:1"), "junctor status", "with: junctor up"),
        (errors.PeerUnavailable("cannot connect to http://h:1"), "junctor status", "see: junctor config view"),
        (errors.PeerUnavailable("cannot connect to https://[::1]:1: why"), "junctor x", "see: junctor config view"),
        (errors.PeerUnavailable("x", metadata={"status": "503"}), "junctor status", "x; look at: junctor status"),
        (errors.Unauthenticated("Unauthorized"), "junctor status", "JUNCTOR_ACCESS_TOKEN"),
        (errors.ResourceExists("taken"), "junctor models create", "--exist-ok"),
        (errors.ResourceExists("taken"), "junctor secrets create", "junctor secrets update NAME"),
        (errors.ResourceNotFound("gone."), "junctor models get", "gone; see what there is: junctor models list"),
        (
            errors.ResourceNotFound("Provider x"),
            "junctor chat",
            "x; see what there is: junctor inference providers list",
        ),
        (errors.ResourceNotFound("gone"), "junctor detect", "gone"),
        (errors.NoRoute("run 'junctor x'"), "junctor chat", "run 'junctor x'"),
        (errors.StreamBroken("two\nlines"), "junctor chat", "two lines"),
    ],
)
def test_a_failure_is_one_line_with_the_next_step(error: errors.JunctorError, command: str, line: str) -> None:
    told = advice.line(error, command)
    assert line in told
    assert "\n" not in told


def test_long_examples_go_on_below_themselves() -> None:
    long = "junctor inference providers list --filter 'name~\"a\"' --sort -created_at --output csv"
    shown = examples(long)
    assert max(map(len, shown.splitlines())) <= 78
    assert " ".join(shown.partition("Examples:\n")[2].replace("\\\n", "").split()) == long
