from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from junctor import filters
from junctor.errors import MalformedRequest
from junctor.filters import And, Compare, Node, Not, Or, as_time, fields, from_query, parse, to_json


def eq(field: str, value: object) -> Compare:
    return Compare(field, "eq", value)


A, B, X = eq("name", "a"), eq("name", "b"), eq("project", "x")
IN, NOT_IN = Compare("name", "in", ("b",)), Compare("name", "nin", ("a",))


@pytest.mark.parametrize(
    ("text", "node"),
    [
        pytest.param("", None, id="nothing"),
        pytest.param("  {} ", None, id="empty object"),
        pytest.param('{"name":"a"}', A, id="json equality"),
        pytest.param('{"name":null}', eq("name", None), id="json absent"),
        pytest.param('{"name":"a","project":"x"}', And((A, X)), id="json fields are anded"),
        pytest.param('{"name":["a","b"]}', Compare("name", "in", ("a", "b")), id="json list is any of"),
        pytest.param('{"name":{"$in":[]}}', Compare("name", "in", ()), id="json in nothing"),
        pytest.param('{"name":{"$nin":["a"]}}', Compare("name", "nin", ("a",)), id="json not in"),
        pytest.param('{"name":{"like":"a"}}', Compare("name", "like", "a"), id="json operator without dollar"),
        pytest.param('{"lora_enabled":true}', eq("lora_enabled", True), id="json boolean"),
        pytest.param(
            '{"t":{"$gte":1,"$lt":2.5}}',
            And((Compare("t", "gte", 1), Compare("t", "lt", 2.5))),
            id="json operators of a field are anded",
        ),
        pytest.param(
            '{"$or":[{"name":"a"},{"name":{"$like":"b"}}]}', Or((A, Compare("name", "like", "b"))), id="json or"
        ),
        pytest.param('{"$and":[{"name":"a"},{"project":"x"}]}', And((A, X)), id="json and"),
        pytest.param('{"$and":[{"name":"a"}]}', A, id="json and of one"),
        pytest.param('{"$not":{"name":"a"}}', Not(A), id="json not"),
        pytest.param('{"name":{"$not":{"$eq":"a"}}}', Not(A), id="json not of a field"),
        pytest.param('{"name":{"$not":"a"}}', Not(A), id="json not of a value"),
        pytest.param('{"name":{"$or":[{"$eq":"a"},"b"]}}', Or((A, B)), id="json or of a field"),
        pytest.param(
            '{"t":{"$and":[{"$gte":1},{"$not":{"$lt":2.5}}]}}',
            And((Compare("t", "gte", 1), Not(Compare("t", "lt", 2.5)))),
            id="json and of a field",
        ),
        pytest.param('{"base_model":{"name":{"$like":"a"}}}', Compare("base_model", "like", "a"), id="part of a field"),
        pytest.param('name:"a"', A, id="text quoted"),
        pytest.param("name:a", A, id="text bare"),
        pytest.param(r'name:"a\"b"', eq("name", 'a"b'), id="text escape"),
        pytest.param("name:null", eq("name", None), id="text bare null is absent"),
        pytest.param('name:"null"', eq("name", "null"), id="text quoted null is a word"),
        pytest.param('name~"llama"', Compare("name", "like", "llama"), id="text like"),
        pytest.param('-name:"a"', Not(A), id="text minus"),
        pytest.param("NOT name:a", Not(A), id="text not"),
        pytest.param("name:meta-llama", eq("name", "meta-llama"), id="text hyphen inside a word"),
        pytest.param("t>1", Compare("t", "gt", "1"), id="text greater"),
        pytest.param("t<=2026-01-01T10:00:00Z", Compare("t", "lte", "2026-01-01T10:00:00Z"), id="text bare time"),
        pytest.param("name:a OR name:b AND project:x", Or((A, And((B, X)))), id="text and binds tighter"),
        pytest.param("(name:a OR name:b) AND project:x", And((Or((A, B)), X)), id="text parentheses"),
        pytest.param("name:a or name:b and not project:x", Or((A, And((B, Not(X))))), id="text words in lower case"),
        pytest.param("name not in [a] Or name in [b]", Or((NOT_IN, IN)), id="text lists in lower case"),
        pytest.param("name:NULL", eq("name", None), id="text null in upper case"),
        pytest.param("name:or or name:and", Or((eq("name", "or"), eq("name", "and"))), id="text words as values"),
        pytest.param("name:a project:x", And((A, X)), id="text side by side"),
        pytest.param('name IN [a, "b c"]', Compare("name", "in", ("a", "b c")), id="text in"),
        pytest.param("name NOT IN [a]", Compare("name", "nin", ("a",)), id="text not in"),
    ],
)
def test_json_and_text_become_the_same_kind_of_tree(text: str, node: Node | None) -> None:
    assert parse(text) == node


@pytest.mark.parametrize(
    ("pairs", "node"),
    [
        pytest.param([("page", "2")], None, id="no filter"),
        pytest.param([("filter[name]", "a")], A, id="equality"),
        pytest.param([("filter[name]", "a,b")], Compare("name", "in", ("a", "b")), id="comma list"),
        pytest.param([("filter[name]", "a"), ("filter[name]", "b")], Compare("name", "in", ("a", "b")), id="repeated"),
        pytest.param([("filter[name][$eq]", "a,b")], eq("name", "a,b"), id="explicit equality keeps commas"),
        pytest.param([("filter[name][$like]", "a")], Compare("name", "like", "a"), id="operator"),
        pytest.param([("filter[name][like]", "a")], Compare("name", "like", "a"), id="operator without dollar"),
        pytest.param(
            [("filter[name][$like]", "a"), ("filter[name][like]", "b")],
            Or((Compare("name", "like", "a"), Compare("name", "like", "b"))),
            id="repeated operator is any of",
        ),
        pytest.param([("filter[name][$in]", "a, b")], Compare("name", "in", ("a", "b")), id="in"),
        pytest.param([("filter[name][nin]", "a")], Compare("name", "nin", ("a",)), id="not in"),
        pytest.param([("filter[name]", "a"), ("filter[project]", "x")], And((A, X)), id="fields are anded"),
        pytest.param([("filter[$or][0][name]", "a"), ("filter[$or][1][name]", "b")], Or((A, B)), id="numbered or"),
        pytest.param([("filter[$or][name]", "a"), ("filter[$or][project]", "x")], Or((A, X)), id="or of fields"),
        pytest.param([("filter[$not][name]", "a")], Not(A), id="not"),
        pytest.param([("filter[name][$not]", "a")], Not(A), id="not of a value"),
        pytest.param([("filter[name][not][like]", "a")], Not(Compare("name", "like", "a")), id="not of an operator"),
        pytest.param([("filter[base_model][name]", "a")], eq("base_model", "a"), id="part of a field"),
        pytest.param([("filter[name][$in]", '["a","b"]')], Compare("name", "in", ("a", "b")), id="in a json list"),
        pytest.param([("filter[name]", '["a","b"]')], Compare("name", "in", ("a", "b")), id="json list"),
        pytest.param([("filter[name]", "[a]")], eq("name", "[a]"), id="no json list"),
        pytest.param([("filter[name]", "[]")], eq("name", "[]"), id="empty json list is a text"),
        pytest.param([("filter", '{"name":"a"}')], A, id="json"),
        pytest.param([("filter", "name:a"), ("filter[project]", "x")], And((A, X)), id="two notations are anded"),
    ],
)
def test_brackets_become_the_same_kind_of_tree(pairs: list[tuple[str, str]], node: Node | None) -> None:
    assert from_query(pairs) == node


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param('{"name":', "not valid JSON", id="malformed json"),
        pytest.param('{"a":' * 5000, "not valid JSON", id="json deeper than the stack"),
        pytest.param('{"n":NaN}', "NaN is not JSON", id="not a number"),
        pytest.param('{"n":1e999}', "finite", id="infinite number"),
        pytest.param('{"$or":[{"name":"a"}],"name":"b"}', "must stand alone", id="logical next to siblings"),
        pytest.param('{"name":"b","$not":{"name":"a"}}', "must stand alone", id="siblings next to logical"),
        pytest.param('{"$xor":[]}', "unknown operator", id="unknown logical operator"),
        pytest.param('{"name":{"$regex":"a"}}', "unknown operator", id="unknown operator"),
        pytest.param('{"name":{}}', "no operator", id="no operator"),
        pytest.param('{"name":{"$not":{}}}', "no operator", id="not of nothing"),
        pytest.param('{"name":{"$or":[]}}', "empty", id="empty or of a field"),
        pytest.param('{"name":{"$or":"a"}}', "needs a list", id="or of a value"),
        pytest.param('{"name":{"$not":"a","$eq":"b"}}', "must stand alone", id="siblings next to logical of a field"),
        pytest.param('{"name":' + '{"$not":' * 40 + '"a"' + "}" * 41, "nested more than", id="deep field"),
        pytest.param('{"name":' + '{"$not":' * 200 + '"a"' + "}" * 201, "nested more than", id="deeper field"),
        pytest.param('{"name":{"name":"a"}}', "unknown operator", id="part of a field that has none"),
        pytest.param('{"$or":[]}', "empty", id="empty or"),
        pytest.param('{"$or":{"name":"a"}}', "needs a list", id="or of an object"),
        pytest.param('{"name":{"$like":1}}', "needs text", id="like a number"),
        pytest.param('{"name":{"$eq":{}}}', "must be text", id="object as value"),
        pytest.param('{"n":99999999999999999999}', "too large", id="number beyond 64 bits"),
        pytest.param(r'{"name":"a\u0000"}', "without NUL", id="nul"),
        pytest.param(r'{"name":"\ud800"}', "Unicode", id="lone surrogate in a value"),
        pytest.param(r'{"\ud800":"a"}', "not a field name", id="lone surrogate in a field"),
        pytest.param("name", "expected an operator", id="field alone"),
        pytest.param("name:", "expected a value", id="value missing"),
        pytest.param("(name:a", "expected ')'", id="parenthesis left open"),
        pytest.param("name:a)", "unexpected", id="parenthesis too many"),
        pytest.param('name:"a', "cannot read", id="quote left open"),
        pytest.param("name IN a", "expected '['", id="in without list"),
        pytest.param("[1]", "expected a field name", id="neither json object nor text"),
        pytest.param("(" * 5000, "nested more than", id="deep text"),
        pytest.param("NOT " * 33 + "name:a", "nested more than", id="one level too deep"),
        pytest.param('{"name":{"$in":' + str(["a"] * 1001).replace("'", '"') + "}}", "more than 1000", id="values"),
    ],
)
def test_what_is_wrong_is_named(text: str, why: str) -> None:
    with pytest.raises(MalformedRequest) as refused:
        parse(text)
    assert why in refused.value.message
    assert len(refused.value.message.encode()) < 1500, "it travels in a trailer"


@pytest.mark.parametrize("key", ["filter[name", "filter[]", "filter[a]b", "filter[$or]", "filter[name][x]"])
def test_malformed_brackets_are_refused(key: str) -> None:
    with pytest.raises(MalformedRequest):
        from_query([(key, "a")])


def test_an_unknown_field_is_named_with_the_valid_ones() -> None:
    with pytest.raises(MalformedRequest) as refused:
        filters.require_known(parse('{"bogus":1}'), ["name", "id"])
    assert refused.value.message == "Unknown filter field 'bogus'. Valid fields: ['id', 'name']"


def test_fields_are_found_at_every_level() -> None:
    assert fields(parse("-(a:1 OR b:2) AND c:3")) == {"a", "b", "c"}
    assert fields(None) == set()


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        pytest.param("2026-01-02", datetime(2026, 1, 2, tzinfo=UTC), id="date"),
        pytest.param("2026-01-02T03:04:05", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), id="no zone is UTC"),
        pytest.param("2026-01-02T03:04:05+02:00", datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC), id="zone"),
    ],
)
def test_times_are_utc(text: str, moment: datetime) -> None:
    assert as_time(text) == moment


@pytest.mark.parametrize("value", ["soon", "", None, 5])
def test_what_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(MalformedRequest):
        as_time(value)


names = st.sampled_from(["name", "project", "created_at"])
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
scalars = st.one_of(texts, st.integers(-(2**62), 2**62), st.booleans(), st.none())
leaves = st.one_of(
    st.builds(Compare, names, st.sampled_from(["eq", "lt", "lte", "gt", "gte"]), scalars),
    st.builds(Compare, names, st.just("like"), texts),
    st.builds(Compare, names, st.sampled_from(["in", "nin"]), st.lists(scalars, max_size=3).map(tuple)),
)
parts = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=8,
)


@given(parts)
def test_canonical_json_reads_back_as_the_same_tree(node: Node) -> None:
    assert parse(to_json(node)) == node


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        node = parse(text)
    except MalformedRequest:
        return
    assert node is None or parse(to_json(node)) == node
