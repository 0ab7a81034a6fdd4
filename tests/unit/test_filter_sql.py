"""Filters compiled to SQL select what a slow evaluation in memory selects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from junctor import filters
from junctor.errors import MalformedRequest
from junctor.filters import And, Compare, Node, Not, Or
from services.runtime.filter_sql import LIKE_LIMIT, compile_filter
from services.runtime.paging import order_clause
from services.runtime.resources import resource_table
from tests.postgres import Postgres

TABLE = resource_table("things")
FIELDS = frozenset({"description", "project"})
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ALPHABET = "abAB%_/\\'\"日Éé- "

Row = dict[str, Any]

texts = st.text(ALPHABET, max_size=3)
moments = st.integers(0, 4).map(lambda n: n * 1_000_000 + n)
rows_strategy = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.text("abc", min_size=1, max_size=2),
            "workspace": st.sampled_from(["w1", "w2"]),
            "created_at": moments,
            "description": st.none() | texts,
            "project": st.none() | texts,
        }
    ),
    max_size=6,
    unique_by=lambda row: (row["workspace"], row["name"]),
)


def iso(microseconds: int) -> str:
    return (EPOCH + timedelta(microseconds=microseconds)).isoformat()


text_fields = st.sampled_from(["name", "workspace", "description", "project", "entity_type", "id"])
comparisons = st.one_of(
    st.builds(Compare, text_fields, st.sampled_from(["eq", "lt", "lte", "gt", "gte", "like"]), texts),
    st.builds(Compare, text_fields, st.just("eq"), st.none()),
    st.builds(Compare, text_fields, st.sampled_from(["in", "nin"]), st.lists(st.none() | texts, max_size=3).map(tuple)),
    st.builds(Compare, st.just("created_at"), st.sampled_from(["eq", "lt", "lte", "gt", "gte"]), moments.map(iso)),
    st.builds(
        Compare,
        st.just("created_at"),
        st.sampled_from(["in", "nin"]),
        st.lists(moments.map(iso), max_size=3).map(tuple),
    ),
)
trees = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: And(tuple(parts))),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: Or(tuple(parts))),
        inner.map(Not),
    ),
    max_leaves=8,
)


def holds(node: Node, row: Row) -> bool:
    match node:
        case And(parts):
            return all(holds(part, row) for part in parts)
        case Or(parts):
            return any(holds(part, row) for part in parts)
        case Not(part):
            return not holds(part, row)
    return compared(node, {"entity_type": "thing", "id": f"id-{row['workspace']}-{row['name']}", **row}[node.field])


def compared(node: Compare, found: Any) -> bool:
    def value(written: Any) -> Any:
        if node.field == "created_at":
            return (datetime.fromisoformat(written) - EPOCH) // timedelta(microseconds=1)
        return written

    if isinstance(node.value, tuple):
        inside = found in [None if one is None else value(one) for one in node.value]
        return inside if node.op == "in" else not inside
    if node.value is None or found is None:
        return node.value is None and found is None
    wanted = value(node.value)
    match node.op:
        case "eq":
            return bool(found == wanted)
        case "like":
            return wanted.encode().lower() in found.encode().lower()
        case "lt":
            return bool(found < wanted)
        case "lte":
            return bool(found <= wanted)
        case "gt":
            return bool(found > wanted)
    return bool(found >= wanted)


class Things:
    """The table on one engine; ``run`` calls a function with a connection."""

    def __init__(self, run: Callable[[Callable[[sa.Connection], Any]], Any]) -> None:
        self._run = run

    def fill(self, rows: list[Row]) -> None:
        self._run(lambda connection: self._fill(connection, rows))

    @staticmethod
    def _fill(connection: sa.Connection, rows: list[Row]) -> None:
        connection.execute(sa.delete(TABLE))
        for row in rows:
            values = {
                "workspace": row["workspace"],
                "name": row["name"],
                "id": f"id-{row['workspace']}-{row['name']}",
                "created_at": row["created_at"],
                "updated_at": row["created_at"],
                "revision": 1,
                "fields": {"description": row["description"], "project": row["project"]},
                "body": b"",
            }
            connection.execute(sa.insert(TABLE).values(values))

    def select(self, node: Node | None) -> set[tuple[str, str]]:
        where = compile_filter(TABLE, node, fields=FIELDS, kind="thing")
        statement = sa.select(TABLE.c.workspace, TABLE.c.name).where(where)
        return {(row.workspace, row.name) for row in self._run(lambda connection: connection.execute(statement).all())}

    def in_order_of_description(self) -> list[str]:
        order = order_clause(TABLE, "description", frozenset({"description"}))
        statement = sa.select(TABLE.c.fields["description"].as_string().label("d")).order_by(*order)
        return [row.d for row in self._run(lambda connection: connection.execute(statement).all())]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def things(request: pytest.FixtureRequest) -> Iterator[Things]:
    url = "sqlite+aiosqlite://"
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        url = server.url(server.create_database()).replace("postgresql:", "postgresql+asyncpg:")
    with asyncio.Runner() as runner:
        engine = create_async_engine(url)
        connection = runner.run(_connected(engine))
        yield Things(lambda work: runner.run(connection.run_sync(work)))
        runner.run(connection.close())
        runner.run(engine.dispose())


async def _connected(engine: AsyncEngine) -> AsyncConnection:
    connection = await engine.connect()
    await connection.run_sync(TABLE.metadata.create_all)
    return connection


@settings(deadline=None)  # a loaded machine is slow at times
@given(rows=rows_strategy, tree=trees)
def test_sql_selects_what_memory_selects(things: Things, rows: list[Row], tree: Node) -> None:
    things.fill(rows)
    wanted = {(row["workspace"], row["name"]) for row in rows if holds(tree, row)}
    assert things.select(tree) == wanted
    assert things.select(filters.parse(filters.to_json(tree))) == wanted


@settings(deadline=None)  # a loaded machine is slow at times
@given(written=st.lists(texts, max_size=8))
def test_text_is_in_the_order_of_its_characters_on_either_engine(things: Things, written: list[str]) -> None:
    things.fill(
        [
            {"workspace": "w1", "name": f"n{number}", "created_at": 0, "description": text, "project": None}
            for number, text in enumerate(written)
        ]
    )
    assert things.in_order_of_description() == sorted(written)


ROWS: list[Row] = [
    {"workspace": "w1", "name": "gpt-4o", "created_at": 1_000_000, "description": "Big 100%", "project": "p"},
    {"workspace": "w1", "name": "llama", "created_at": 2_000_000, "description": "small_one", "project": None},
    {"workspace": "w2", "name": "llama", "created_at": 3_000_000, "description": None, "project": "p"},
]
GPT, LLAMA_1, LLAMA_2 = ("w1", "gpt-4o"), ("w1", "llama"), ("w2", "llama")

NOTATIONS = [
    ("eq", "filter[name]=gpt-4o", '{"name":"gpt-4o"}', 'name:"gpt-4o"', {GPT}),
    ("like", "filter[name][$like]=LLA", '{"name":{"$like":"LLA"}}', 'name~"LLA"', {LLAMA_1, LLAMA_2}),
    ("like-percent", "filter[description][like]=0%", '{"description":{"$like":"0%"}}', 'description~"0%"', {GPT}),
    (
        "like-underscore",
        "filter[description][like]=l_o",
        '{"description":{"$like":"l_o"}}',
        'description~"l_o"',
        {LLAMA_1},
    ),
    ("in", "filter[name][$in]=gpt-4o,x", '{"name":{"$in":["gpt-4o","x"]}}', "name IN [gpt-4o, x]", {GPT}),
    ("nin", "filter[name][nin]=gpt-4o", '{"name":{"$nin":["gpt-4o"]}}', "name NOT IN [gpt-4o]", {LLAMA_1, LLAMA_2}),
    (
        "gte",
        "filter[created_at][$gte]=1970-01-01T00:00:02Z",
        '{"created_at":{"$gte":"1970-01-01T00:00:02Z"}}',
        'created_at>="1970-01-01T00:00:02Z"',
        {LLAMA_1, LLAMA_2},
    ),
    (
        "lt-without-zone",
        "filter[created_at][lt]=1970-01-01T00:00:02",
        '{"created_at":{"$lt":"1970-01-01T00:00:02"}}',
        'created_at<"1970-01-01T00:00:02"',
        {GPT},
    ),
    (
        "and",
        "filter[name]=llama&filter[workspace]=w2",
        '{"$and":[{"name":"llama"},{"workspace":"w2"}]}',
        'name:"llama" AND workspace:"w2"',
        {LLAMA_2},
    ),
    (
        "or",
        "filter[$or][name]=gpt-4o&filter[$or][workspace]=w2",
        '{"$or":[{"name":"gpt-4o"},{"workspace":"w2"}]}',
        'name:"gpt-4o" OR workspace:"w2"',
        {GPT, LLAMA_2},
    ),
    ("not", "filter[$not][name]=gpt-4o", '{"$not":{"name":"gpt-4o"}}', '-name:"gpt-4o"', {LLAMA_1, LLAMA_2}),
    (
        "entity-type",
        "filter[entity_type]=thing",
        '{"entity_type":"thing"}',
        "entity_type:thing",
        {GPT, LLAMA_1, LLAMA_2},
    ),
    ("nothing", "filter[name]=nope", '{"name":"nope"}', "name:nope", set()),
]


@pytest.mark.parametrize(("brackets", "json", "text", "wanted"), [row[1:] for row in NOTATIONS], ids=lambda _: "")
def test_the_three_notations_select_the_same(
    things: Things, brackets: str, json: str, text: str, wanted: set[tuple[str, str]]
) -> None:
    things.fill(ROWS)
    pairs = [(key, value) for key, _, value in (pair.partition("=") for pair in brackets.split("&"))]
    assert things.select(filters.from_query(pairs)) == wanted
    assert things.select(filters.parse(json)) == wanted
    assert things.select(filters.parse(text)) == wanted


def test_absent_is_not_in_and_not_equal_and_null_finds_it(things: Things) -> None:
    things.fill(ROWS)
    assert things.select(filters.parse('{"description":null}')) == {LLAMA_2}
    assert things.select(filters.parse('{"description":{"$in":[null,"Big 100%"]}}')) == {GPT, LLAMA_2}
    assert things.select(filters.parse('{"description":{"$nin":[null]}}')) == {GPT, LLAMA_1}
    assert things.select(filters.parse('{"$not":{"description":{"$like":"big"}}}')) == {LLAMA_1, LLAMA_2}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("bogus:x", "Unknown filter field 'bogus'. Valid fields: ['created_at', 'description', 'entity_type', 'id', "),
        ('{"name":{"$lt":null}}', "'$lt' of field 'name' needs a value"),
        ("created_at>tomorrow", "'tomorrow' is not an ISO 8601 date or time"),
        ("created_at~2026", "'$like' does not apply to the time 'created_at'"),
        (f'name~"{"x" * (LIKE_LIMIT + 1)}"', "is longer than 1000 characters"),
        (r'{"name":"a\u0000b"}', "text must be Unicode without NUL"),
        (r'{"name":{"$like":"\u0000"}}', "text must be Unicode without NUL"),
        (r'{"$not":{"project":{"$in":["\ud800"]}}}', "text must be Unicode without NUL"),
    ],
    ids=["unknown-field", "order-against-null", "no-time", "like-on-time", "long-like", "nul", "nul-like", "surrogate"],
)
def test_what_cannot_be_is_malformed_and_says_why(text: str, rule: str) -> None:
    with pytest.raises(MalformedRequest) as caught:
        compile_filter(TABLE, filters.parse(text), fields=FIELDS, kind="thing")
    assert rule in caught.value.message
