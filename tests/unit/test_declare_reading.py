"""YAML and JSON as plain values that know their lines."""

from __future__ import annotations

from typing import Any

import pytest

from junctor.declare.problems import BadFiles
from junctor.declare.reading import LIMIT, read


def only(text: str) -> Any:
    [source] = read(text, "file")
    return source.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: no\nb: on\nc: yes\nd: y", {"a": "no", "b": "on", "c": "yes", "d": "y"}),
        ("a: 1:30\nb: 2026-11-23\nc: 1_000", {"a": "1:30", "b": "2026-11-23", "c": "1_000"}),
        ("a: true\nb: False\nc: null\nd: ~\ne:", {"a": True, "b": False, "c": None, "d": None, "e": None}),
        (
            "a: 7\nb: -7\nc: 0o17\nd: 0xff\ne: 1.5\nf: 1e3\ng: .5",
            dict(zip("abcdefg", [7, -7, 15, 255, 1.5, 1e3, 0.5], strict=True)),
        ),
        ("a: '7'\nb: \"true\"\nc: |\n  7\n", {"a": "7", "b": "true", "c": "7\n"}),
        ("a: .nan\nb: .inf", {"a": ".nan", "b": ".inf"}),
        ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}),
        ("x: &x {b: 1, c: 2}\ny: {<<: *x, c: 3}", {"x": {"b": 1, "c": 2}, "y": {"b": 1, "c": 3}}),
        (
            "x: &x {b: 1}\nz: &z {b: 2, d: 4}\ny: {<<: [*x, *z]}",
            {"x": {"b": 1}, "z": {"b": 2, "d": 4}, "y": {"b": 1, "d": 4}},
        ),
        ('\ufeff{"a": "\\ud83d\\ude00", "b": 1.0}', {"a": "😀", "b": 1.0}),
        ('{"a":\t[1,\t2]}', {"a": [1, 2]}),
    ],
    ids=[
        "words",
        "times",
        "core words",
        "numbers",
        "quotes",
        "no infinity",
        "alias",
        "merge",
        "merges",
        "json",
        "tabs",
    ],
)
def test_what_is_written_is_what_is_meant(text: str, value: Any) -> None:
    found = only(text)
    assert found == value
    assert repr(found) == repr(value)  # 1 is not 1.0 is not True


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3", "file, document 1, line 3: has the key 'a' twice"),
        ('{"a": 1,\n "a": 2}', "file, document 1, line 2: has the key 'a' twice"),
        ("7: a", "file, document 1, line 1: must be text, as all keys are; put it in quotes"),
        ("[a]: b", "file, document 1, line 1: must be text, as all keys are; put it in quotes"),
        ("a: &x\n  - *x", "file, document 1, line 1: refers to itself"),
        ("a: &x\n  <<: *x", "file, document 1, line 1: must be a mapping, or a list of them, to be merged"),
        (
            "a: !!python/object:os.system x",
            "file, document 1, line 1: has the tag tag:yaml.org,2002:python/object:os.system; ",
        ),
        ("a: !x {b: 1}", "file, document 1, line 1: has the tag !x; "),
        ("a: !!set [b]", "file, document 1, line 1: has the tag tag:yaml.org,2002:set; "),
        ("a: 1\n---\nb: [", "file, document 2, line 3: is no YAML: "),
        ("a: \x07", "file: is no YAML: "),
        ("[" * 5000, "file: is nested too deep"),
    ],
    ids=[
        "twice",
        "twice in json",
        "number key",
        "list key",
        "itself",
        "merges itself",
        "tag",
        "tag of a mapping",
        "tag of a list",
        "broken",
        "control",
        "deep",
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(text: str, told: str) -> None:
    with pytest.raises(BadFiles) as caught:
        read(text, "file")
    assert str(caught.value).startswith(told)


def test_anchors_that_grow_are_cut_off() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(BadFiles, match=f"{LIMIT:,} values"):
        read("\n".join(lines), "file")


def test_merges_that_grow_are_cut_off() -> None:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 40)]
    with pytest.raises(BadFiles, match=f"{LIMIT:,} values"):
        read("\n".join(lines), "file")


def test_documents_count_and_know_their_lines() -> None:
    first, second, third = read("a: 1\n---\n# nothing\n---\n- b: 2\n- c:\n    - d: 3\n", "file")
    assert (first.number, second.number, third.number) == (1, 2, 3)
    assert str(first.place(("a",))) == "file, document 1, line 1"
    assert str(second.place(("b",))) == "file, document 2, line 5"
    assert str(third.place(("c", 0, "d"))) == "file, document 3, line 7"
    assert str(third.place(("c", 0, "no-such"))) == "file, document 3, line 7"
    assert read("", "file") == []
