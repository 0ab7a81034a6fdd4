"""Request and answer bodies: what is read, what is refused, and that only ``model`` changes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from junctor.errors import MalformedRequest
from services.inference_router import rewrite
from services.inference_router.rewrite import JsonModelRewriter, merge_body, read_body, replace_model
from services.inference_router.usage import merge_usage, read_usage
from services.runtime.exchange import Usage


@pytest.mark.parametrize(
    ("body", "model", "stream"),
    [
        pytest.param(b'{"model":"a"}', "a", False, id="plain"),
        pytest.param(b' {"stream" : true , "model" : "a/b" } \n', "a/b", True, id="space"),
        pytest.param(b'{"mod\\u0065l":"a\\/b","stream":false}', "a/b", False, id="escapes"),
        pytest.param(b'{"model":"a","model":"b"}', "b", False, id="last-wins"),
        pytest.param(b'{"m":{"model":"x"},"model":"b","stream":"true"}', "b", False, id="nested"),
        pytest.param('{"model":"é","x":"日本"}'.encode(), "é", False, id="utf-8"),
    ],
)
def test_reads_model_and_stream(body: bytes, model: str, stream: bool) -> None:
    facts = read_body(body)
    assert (facts.model, facts.stream) == (model, stream)


def nest(depth: int, inside: bytes = b"") -> bytes:
    return b'{"model":"m","x":' + b"[" * depth + inside + b"]" * depth + b"}"


EXTRACT = "Could not extract model from openai request: "
INVALID = "Invalid request body: "
PAD = b'"' + b"[{" * 6000 + b'"'


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param(b"", INVALID, id="empty"),
        pytest.param(b"{", INVALID, id="cut"),
        pytest.param(b'{"model":"m"}x', INVALID, id="trailing"),
        pytest.param(b'{"model":"m","x":NaN}', INVALID, id="nan"),
        pytest.param(b"\xff\xfe{}", INVALID, id="not-utf8-at-all"),
        pytest.param(b'{"model":"m","x":"\xff"}', INVALID + "not valid UTF-8 (byte 18)", id="bad-utf8-value"),
        pytest.param(b'{"model":"m","\xff":1}', INVALID + "not valid UTF-8", id="bad-utf8-key"),
        pytest.param(b'{"model":"m\xff"}', INVALID + "not valid UTF-8", id="bad-utf8-model"),
        pytest.param(b"[1]", EXTRACT, id="array"),
        pytest.param(b"null", EXTRACT, id="null"),
        pytest.param(b'"x"', EXTRACT, id="string"),
        pytest.param(b"{}", EXTRACT, id="no-model"),
        pytest.param(b'{"model":null}', EXTRACT, id="model-null"),
        pytest.param(b'{"model":12}', EXTRACT, id="model-number"),
        pytest.param(b'{"model":[]}', EXTRACT, id="model-array"),
        pytest.param(b'{"model":"\\ud800"}', INVALID, id="lone-surrogate"),
        pytest.param(nest(512), INVALID + "JSON is nested more than 512", id="513-deep"),
        pytest.param(nest(850), INVALID + "JSON is nested more than 512", id="851-deep"),
        pytest.param(nest(100_000), INVALID + "JSON is nested more than 512", id="recursion"),
        pytest.param(nest(512, PAD), INVALID + "JSON is nested more than 512", id="deep-large"),
        pytest.param(
            b'{"model":"m","a":[' + nest(511, PAD) + b',{"x":"]]]]"}]}', INVALID + "JSON is nested", id="deep-low"
        ),
        pytest.param(
            b'{"x":' + b"[" * 600 + b"]" * 600 + b',"x":1,"model":"m","y":' + PAD + b"}",
            INVALID + "JSON is nested",
            id="deep-behind-second-key",
        ),
        pytest.param(b'{"model":"m","n":' + b"1" * 4301 + b"}", INVALID + "JSON has a number", id="long-number"),
        pytest.param(
            b'{"model":"m","s":"' + b"2" * 9000 + b'","n":-0.' + b"1" * 4300 + b"}",
            INVALID + "JSON has a number",
            id="long-fraction",
        ),
    ],
)
def test_refuses_bad_body(body: bytes, text: str) -> None:
    with pytest.raises(MalformedRequest) as caught:
        read_body(body)
    assert caught.value.message.startswith(text)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(nest(511), id="512-deep"),
        pytest.param(nest(511, PAD), id="512-deep-large"),
        pytest.param(b'{"model":"m","t":"' + b"[" * 5000 + b'"}', id="brackets-in-text"),
        pytest.param(b'{"model":"m","a":[[' + b",".join([PAD] * 5) + b"]]}", id="brackets-in-nested-text"),
        pytest.param(b'{"model":"m","a":[' + b"[]," * 2000 + b"{}]}", id="wide"),
        pytest.param(b'{"model":"m","n":' + b"1" * 4300 + b"}", id="longest-number"),
        pytest.param(b'{"model":"m","t":"' + b"1" * 90_000 + b'"}', id="digits-in-text"),
        pytest.param(b'{"model":"m","a":[' + b",".join([b"1" * 4300] * 9) + b"]}", id="many-longest-numbers"),
    ],
)
def test_accepts_unusual_body(body: bytes) -> None:
    assert read_body(body).model == "m"


@pytest.mark.parametrize("start", range(0, 2100, 97))
def test_finds_a_long_number_wherever_it_starts(start: int) -> None:
    body = b'{"model":"m","t":"' + b"x" * start + b'","n":' + b"7" * 4301 + b"}"
    with pytest.raises(MalformedRequest, match="number"):
        read_body(body)
    assert read_body(body.replace(b"7" * 4301, b"7" * 4300)).model == "m"


def test_the_model_route_needs_no_model() -> None:
    assert read_body(b'{"model":12}', model_required=False).model is None
    assert read_body(b"{}", model_required=False).model is None


EXACT = b'"n":9007199254740993, "f":1.0,"e":"\\u00e9\\/","k":{"model":"m"},"z":[ ]'


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b'{"model":"m"}', b'{"model":"new/\\"x"}', id="only"),
        pytest.param(b'{"model":"m",' + EXACT + b"}", b'{"model":"new/\\"x",' + EXACT + b"}", id="first"),
        pytest.param(b"{" + EXACT + b',"model" : "m" }\n', b"{" + EXACT + b',"model" : "new/\\"x" }\n', id="last"),
        pytest.param(b'{"mod\\u0065l":"m"}', b'{"mod\\u0065l":"new/\\"x"}', id="escaped-key"),
        pytest.param(
            b'{"t":"\\"model\\":\\"m\\"","model":"m"}', b'{"t":"\\"model\\":\\"m\\"","model":"new/\\"x"}', id="text"
        ),
        pytest.param(b" { } ", b' {"model":"new/\\"x" } ', id="absent-empty"),
        pytest.param(b'{ "a":1}', b'{"model":"new/\\"x", "a":1}', id="absent"),
        pytest.param(b'{"model":{"a":[1]},"b":2}', b'{"model":"new/\\"x","b":2}', id="not-a-string"),
    ],
)
def test_replaces_model_and_nothing_else(body: bytes, expected: bytes) -> None:
    assert replace_model(body, read_body(body, model_required=False), 'new/"x') == expected


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"b"}',
        b'{"model":"a","x":1,"mod\\u0065l":"b"}',
        b'{"model":{"x":1,"b":2}, "model":"aaaaaaaaaaaaa" ,"b":2}',
        b'{"model":"bbbb","b":"c","b":"c","model":"x"}',
        b'{"model":"a", "b":1, "model":"a"}',
    ],
)
def test_a_second_model_cannot_reach_the_provider(body: bytes) -> None:
    new = replace_model(body, read_body(body), "served")
    pairs: list[tuple[str, object]] = json.loads(new, object_pairs_hook=list)
    assert {value for key, value in pairs if key == "model"} == {"served"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("model"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text('model\\"é', max_size=5) | st.just("model"), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.text(max_size=4), JSON, max_size=5),
    JSON,
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: ")]),
    st.booleans(),
)
def test_replacing_changes_only_the_value(
    before: dict[str, object], after: object, separators: tuple[str, str], ascii_only: bool
) -> None:
    def text(model: str) -> bytes:
        value = {**before, "model": model, "tail": after}
        return json.dumps(value, separators=separators, ensure_ascii=ascii_only).encode()

    body = text("old-name")
    assert replace_model(body, read_body(body), "new") == text("new")


MEMBERS = st.tuples(
    st.sampled_from([b'"model"', b'"b"', b'"mod\\u0065l"']),
    st.sampled_from([b'"a"', b"1", b'"a","b":1', b'{"b":1}', b'{"x":1,"b":2}', b'"aaaaaaaaaaaa"', b"11111111"]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(MEMBERS, max_size=6), st.sampled_from([b"", b" "]))
def test_no_reader_sees_another_model_whatever_occurs_twice(members: list[tuple[bytes, bytes]], space: bytes) -> None:
    parts = [*(name + b":" + value for name, value in members), b'"model":"last"']
    for at in range(len(parts)):
        body = b"{" + b",".join([space + parts[-1], *parts[:at], *parts[at:]]) + b"}"
        pairs: list[tuple[str, object]] = json.loads(
            replace_model(body, read_body(body), "new"), object_pairs_hook=lambda found: found
        )
        assert {value for key, value in pairs if key == "model"} == {"new"}


@pytest.mark.parametrize(
    ("body", "extras", "expected"),
    [
        pytest.param(b'{"a":1.0}', (None, None, None), b'{"a":1.0}', id="nothing"),
        pytest.param(b'{ "a":1.0}', (b'{"a":2}', None, None), b'{ "a":1.0}', id="default-present"),
        pytest.param(b'{ "a":1.0}', (b'{"b":2.50}', None, None), b'{"a":1.0,"b":2.50}', id="default-absent"),
        pytest.param(
            b'{"a":1.0,"b":2}', (None, b'{"a":9007199254740993}', None), b'{"a":9007199254740993,"b":2}', id="required"
        ),
        pytest.param(
            b'{"model":"c"}', (b'{"model":"d"}', b'{"model":"r"}', "served"), b'{"model":"r"}', id="required-model"
        ),
        pytest.param(
            b'{"model":"c", "x":1}', (b'{"model":"d"}', None, "s"), b'{"model":"s", "x":1}', id="served-model"
        ),
        pytest.param(b"[1, 2]", (b'{"a":1}', b'{"b":1}', None), b"[1, 2]", id="array"),
        pytest.param(b"not json", (b'{"a":1}', b'{"b":1}', None), b"not json", id="not-json"),
        pytest.param(b"", (b'{"a":1}', None, None), b"", id="empty"),
        pytest.param(b"[" * 5000, (b'{"a":1}', None, None), b"[" * 5000, id="deep"),
    ],
)
def test_merges_extra_bodies(body: bytes, extras: tuple[bytes, bytes, str], expected: bytes) -> None:
    default, required, model = extras
    assert merge_body(body, default_extra=default, required_extra=required, model=model) == expected


ANSWERS = [
    pytest.param(b'{"model":"up","x":"up"}', b'{"model":"ws/m","x":"up"}', id="top"),
    pytest.param(b'{"model":"u\\u0070"}', b'{"model":"ws/m"}', id="escaped-value"),
    pytest.param(b'{"model":"other"}', b'{"model":"other"}', id="other"),
    pytest.param(b'{"a":{"model":"up"}}', b'{"a":{"model":"up"}}', id="nested-elsewhere"),
    pytest.param(b'{"message": {"a":1, "model" :"up"} }', b'{"message": {"a":1, "model" :"ws/m"} }', id="message"),
    pytest.param(
        b'{"response":{"model":"up"},"model":"up","message":{"model":"up"}}',
        b'{"response":{"model":"ws/m"},"model":"ws/m","message":{"model":"ws/m"}}',
        id="all",
    ),
    pytest.param(
        b'{"message":"up","response":null,"model":7}', b'{"message":"up","response":null,"model":7}', id="types"
    ),
    pytest.param(b"<html>up</html>", b"<html>up</html>", id="not-json"),
    pytest.param(b'[{"model":"up"}]', b'[{"model":"up"}]', id="array"),
    pytest.param(b'{"model":"up","x":"\xff"}', b'{"model":"ws/m","x":"\xff"}', id="bad-utf8-kept"),
    pytest.param(b"", b"", id="empty"),
]


@pytest.mark.parametrize(("answer", "expected"), ANSWERS)
def test_shows_the_entity_in_answers(answer: bytes, expected: bytes) -> None:
    for size in (1, 3, 1000):
        rewriter = JsonModelRewriter("up", "ws/m")
        parts = [rewriter.feed(answer[at : at + size]) for at in range(0, len(answer), size)]
        assert b"".join([*parts, rewriter.finish()]) == expected


@pytest.mark.parametrize(
    ("head", "changed"),
    [
        pytest.param(b'{"object":"list","model":"up","data":"', True, id="early"),
        pytest.param(
            b'{"a":{"model":"up"},"b":["model","up"],"c":"model","model" : "up","data":"', True, id="behind-nested"
        ),
        pytest.param(b'{"pad":"' + b"x" * 70_000 + b'","model":"up","data":"', False, id="beyond-64-KiB"),
        pytest.param(b'[{"model":"up","data":"', False, id="array"),
    ],
)
def test_large_answers_stream(head: bytes, changed: bool) -> None:
    body = head + b"y" * rewrite.WHOLE_LIMIT
    rewriter = JsonModelRewriter("up", "ws/m")
    first = rewriter.feed(body)
    assert len(first) >= len(body)
    assert rewriter.feed(b"tail") == b"tail"
    assert rewriter.finish() == b""
    at = head.rfind(b'"up"') if changed else len(head)
    assert first == (body[:at] + b'"ws/m"' + body[at + 4 :] if changed else body)


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        pytest.param(
            b'{"usage":{"prompt_tokens":3,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":2},'
            b'"completion_tokens_details":{"reasoning_tokens":1}}}',
            Usage(3, 4, 2, 1),
            id="chat",
        ),
        pytest.param(b'{"object":"list","usage":{"prompt_tokens":8,"total_tokens":8}}', Usage(8), id="embeddings"),
        pytest.param(
            b'{"type":"response.completed","response":{"usage":{"input_tokens":5,"output_tokens":6,'
            b'"input_tokens_details":{"cached_tokens":1},'
            b'"output_tokens_details":{"reasoning_tokens":2}}}}',
            Usage(5, 6, 1, 2),
            id="responses",
        ),
        pytest.param(
            b'{"type":"message_start","message":{"usage":{"input_tokens":5,"output_tokens":1,'
            b'"cache_read_input_tokens":9}}}',
            Usage(14, 1, 9),
            id="anthropic-start",
        ),
        pytest.param(b'{"type":"message_delta","usage":{"output_tokens":12}}', Usage(None, 12), id="anthropic-delta"),
        pytest.param(b'{"usage":null}', None, id="null"),
        pytest.param(b'{"usage":{"prompt_tokens":true,"completion_tokens":-1}}', None, id="nonsense"),
        pytest.param(b'{"text":"\\"usage\\""}', None, id="text"),
        pytest.param(b'{"usage":', None, id="cut"),
        pytest.param(b'{"message":"x","a":{"usage":1}}', None, id="other-types"),
    ],
)
def test_reads_usage(body: bytes, usage: Usage | None) -> None:
    assert read_usage(body) == usage


def test_merged_usage_prefers_the_later_report() -> None:
    assert merge_usage(Usage(5, 1, 9), Usage(None, 12)) == Usage(5, 12, 9)
    assert merge_usage(None, Usage(1)) == merge_usage(Usage(1), None) == Usage(1)


LONG = b'"long":"' + b"a" * rewrite.WHOLE_LIMIT + b'"'


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b'{"model":"<>", "x" : 1.0,"x":2 }', id="another-key-twice"),
        pytest.param(b'{ "model":"<>", "x" : 1,"mod\\u0065l" :"<>"}', id="model-twice"),
        pytest.param(b'{"model":"other", "model" : "<>"}', id="first-of-two-is-another"),
        pytest.param(b'{"message":{"model":"<>"}, "message" : {"model":"<>"}}', id="message-twice"),
        pytest.param(b'{"response":{"model":"<>" ,"model": "<>"},"model":"<>" }', id="model-twice-in-response"),
        pytest.param(b'{"message":{"x":{"model":"up"},"model":"<>"} ,"a":1,"a":[{"model":"up"}]}', id="nested-stays"),
        pytest.param(b'\xef\xbb\xbf {"model":"<>"}', id="byte-order-mark"),
        pytest.param(b'{"model" : "<>","x":' + b"[" * 5000 + b"]" * 5000 + b"}", id="too-deep-to-decode"),
        pytest.param(b'\xef\xbb\xbf{"model":"<>",' + LONG + b"}", id="large-with-byte-order-mark"),
        pytest.param(b" " * 1000 + b'{"a":[{"model":"up"}], "model" : "<>",' + LONG + b"}", id="large-behind-space"),
        pytest.param(b'{"message":{"model":"up"},"model":"<>",' + LONG + b"}", id="large-top-level-only"),
        pytest.param(b'{"a":"' + b"a" * rewrite.EARLY_LIMIT + b'","model":"up",' + LONG + b"}", id="large-and-late"),
    ],
)
def test_of_an_answer_only_the_model_changes(answer: bytes) -> None:
    rewriter = JsonModelRewriter("up", "ws/entity")
    out = rewriter.feed(answer.replace(b"<>", b"up")) + rewriter.finish()
    assert out == answer.replace(b"<>", b"ws/entity")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"x" : 1.0, "model":"<>","x":9007199254740993 }', id="another-key-twice"),
        pytest.param(b'{ "model" : "<>","x":{"model":"a"},"mod\\u0065l" :"<>"}', id="model-twice"),
    ],
)
def test_of_a_request_only_the_model_changes_though_a_key_occurs_twice(body: bytes) -> None:
    sent = body.replace(b"<>", b"a")
    assert replace_model(sent, read_body(sent), "served") == body.replace(b"<>", b"served")


def test_a_large_request_in_which_a_key_occurs_twice_has_one_model() -> None:
    body = b'{"model":"a","model":"b",' + LONG + b"}"
    assert replace_model(body, read_body(body), "served") == b'{"model":"served",' + LONG + b"}"
