"""Pages: sizes, tokens, order."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from junctor import filters
from junctor.errors import InvalidField
from services.runtime.paging import MAX_PAGE_SIZE, ListQuery, Slice, order_clause, page_of
from services.runtime.resources import resource_table

TABLE = resource_table("things")
SORTABLE = frozenset({"name", "created_at", "status"})


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        (ListQuery(page_size=-1), ["page_size"]),
        (ListQuery(page_size=MAX_PAGE_SIZE + 1), ["page_size"]),
        (ListQuery(skip=-1), ["skip"]),
        (ListQuery(page_token="no token"), ["page_token"]),
        (ListQuery(page_token=base64.urlsafe_b64encode(b"o:-1").decode()), ["page_token"]),
        (ListQuery(page_token=base64.urlsafe_b64encode(b"o:99999999999").decode()), ["page_token"]),
        (ListQuery(page_size=5000, skip=-1, page_token="?"), ["page_size", "skip", "page_token"]),
    ],
    ids=["negative-size", "large-size", "negative-skip", "token", "negative-offset", "large-offset", "all-at-once"],
)
def test_bad_pages_name_every_bad_field(query: ListQuery, fields: list[str]) -> None:
    with pytest.raises(InvalidField) as caught:
        page_of(query, default_size=20)
    assert [violation.field for violation in caught.value.violations] == fields


def test_size_zero_is_the_default_and_skip_counts_from_the_token() -> None:
    assert page_of(ListQuery(), default_size=20) == Slice(0, 20)
    token = Slice(0, 7).next_token(100)
    assert page_of(ListQuery(page_size=1000, page_token=token, skip=3), default_size=20) == Slice(10, 1000)


@given(total=st.integers(0, 50), size=st.integers(1, 12))
def test_following_tokens_visits_everything_once(total: int, size: int) -> None:
    seen: list[int] = []
    token, pages = "", 0
    while pages == 0 or token:
        page = page_of(ListQuery(page_size=size, page_token=token), default_size=1)
        seen.extend(range(total)[page.offset : page.offset + page.size])
        token, pages = page.next_token(total), pages + 1
    assert seen == list(range(total))
    assert pages == max(1, -(-total // size))


@pytest.mark.parametrize(
    ("order_by", "sql"),
    [
        ("name", "things.name ASC, things.name ASC, things.workspace ASC"),
        ("-created_at", "things.created_at DESC, things.name ASC, things.workspace ASC"),
    ],
)
def test_order_ties_by_name_then_workspace(order_by: str, sql: str) -> None:
    assert ", ".join(str(part) for part in order_clause(TABLE, order_by, SORTABLE)) == sql


@pytest.mark.parametrize("order_by", ["bogus", "--name", "-", "name desc", "body"])
def test_an_unknown_order_says_what_may_be(order_by: str) -> None:
    with pytest.raises(InvalidField) as caught:
        order_clause(TABLE, order_by, SORTABLE)
    assert caught.value.violations[0].field == "order_by"
    assert "'name', '-name', 'status', '-status'" in caught.value.violations[0].rule


@pytest.mark.parametrize(
    ("text", "takes_over"), [("workspace:w2", True), ("name:a AND -workspace:w2", True), ("name:a", False), ("", False)]
)
def test_a_filter_on_workspace_takes_over(text: str, takes_over: bool) -> None:
    assert ListQuery(filter=filters.parse(text)).filters_workspace is takes_over
