"""The tail of a store's changes: it answers about an unbroken run of revisions, and never about anything else."""

from __future__ import annotations

import pytest

from services.runtime.tail import Change, Logged, Tail


def logged(*revisions: int, kind: str = "a", size: int = 1) -> list[Logged]:
    return [(kind, Change(revision, False, b"x" * size)) for revision in revisions]


def seen(tail: Tail, after: int, *, kind: str = "a", upto: int | None = None) -> tuple[int, list[int]] | None:
    found = tail.since(kind, after, upto=upto)
    return None if found is None else (found[0], [change.revision for change in found[1]])


@pytest.fixture
def tail() -> Tail:
    made = Tail()
    made.extend([*logged(5, 6), *logged(7, kind="b"), *logged(8)])
    return made


@pytest.mark.parametrize(
    ("after", "found"),
    [
        pytest.param(3, None, id="before its start"),
        pytest.param(4, (8, [5, 6, 8]), id="all of it"),
        pytest.param(6, (8, [8]), id="a part, without other kinds"),
        pytest.param(8, (8, []), id="its end"),
        pytest.param(9, None, id="beyond its end: another process wrote"),
    ],
)
def test_it_answers_for_the_revisions_that_it_holds(
    tail: Tail, after: int, found: tuple[int, list[int]] | None
) -> None:
    assert seen(tail, after) == found


def test_a_round_can_be_bounded(tail: Tail) -> None:
    assert seen(tail, 4, upto=6) == (6, [5, 6])
    assert seen(tail, 4, upto=9) is None


@pytest.mark.parametrize(("next_one", "start"), [(10, 9), (8, 7), (3, 2)], ids=["ahead", "again", "behind"])
def test_a_gap_makes_it_start_anew(tail: Tail, next_one: int, start: int) -> None:
    tail.extend(logged(next_one))
    assert seen(tail, start) == (next_one, [next_one])
    assert seen(tail, start - 1) is None


def test_an_empty_one_knows_nothing(tail: Tail) -> None:
    tail.forget()
    assert seen(tail, 8) is None
    assert seen(Tail(), 0) is None


def test_it_is_bounded_in_changes_and_in_bytes() -> None:
    by_count, by_bytes = Tail(keep=4), Tail(keep_bytes=10)
    for revision in range(1, 100):
        by_count.extend(logged(revision))
        by_bytes.extend(logged(revision, size=5))
    assert seen(by_count, 98) == (99, [99])
    assert seen(by_count, 94) is None
    assert seen(by_bytes, 98) == (99, [99])
    assert seen(by_bytes, 96) is None
