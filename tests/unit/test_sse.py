"""Event streams: only the model value changes, wherever the bytes are cut."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference_router.sse import LINE_LIMIT, SseRewriter
from services.runtime.exchange import Usage

SERVED, SHOWN = "up/m-1", "ws/m-1"


def event(value: object, *, compact: bool = True, ascii_only: bool = True) -> bytes:
    separators = (",", ":") if compact else (", ", ": ")
    return b"data: " + json.dumps(value, separators=separators, ensure_ascii=ascii_only).encode() + b"\n\n"


def chat(text: str, *, number: int = 1, **more: object) -> dict[str, object]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": number}
    return {**head, "model": SERVED, "choices": [choice], **more}


DONE = b"data: [DONE]\n\n"
WORDS = ("Hel", "lo", ' "model":"up/m-1" ', "{[日本é🎉", "\n data: x")
CHAT = b"".join(event(chat(word)) for word in WORDS) + DONE
ANTHROPIC = b"".join(
    b"event: " + str(value["type"]).encode() + b"\n" + event(value)
    for value in (
        {
            "type": "message_start",
            "message": {"id": "m", "model": SERVED, "usage": {"input_tokens": 7, "output_tokens": 1}},
        },
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": '"message_stop"'}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 12}},
        {"type": "message_stop"},
    )
)
RESPONSES = b"".join(
    b"event: " + str(value["type"]).encode() + b"\n" + event(value)
    for value in (
        {"type": "response.created", "response": {"id": "r", "model": SERVED, "tools": [{"model": SERVED}]}},
        {"type": "response.output_text.delta", "delta": "response.completed"},
        {"type": "response.completed", "response": {"model": SERVED, "usage": {"input_tokens": 3, "output_tokens": 4}}},
    )
)
USAGE = {"prompt_tokens": 5, "completion_tokens": 6}
TEXT = {"id": "c", "object": "text_completion", "model": SERVED, "choices": [{"text": "hi"}]}

STREAMS: dict[str, bytes] = {
    "chat": CHAT,
    "chat-spaced": b"".join(event(chat(word), compact=False) for word in WORDS) + DONE,
    "chat-utf8": b"".join(event(chat(word), ascii_only=False) for word in WORDS) + DONE,
    "chat-crlf": CHAT.replace(b"\n", b"\r\n"),
    "chat-cr": CHAT.replace(b"\n", b"\r"),
    "chat-mixed-ends": event(chat("a")) + event(chat("b")).replace(b"\n", b"\r\n") + event(chat("c")) + DONE,
    "chat-no-space": CHAT.replace(b"data: ", b"data:"),
    "chat-more-space": re.sub(rb"(?m)^data: ", b"data: \t ", CHAT),
    "chat-new-ids": b"".join(event(chat(word, number=at * 7)) for at, word in enumerate(WORDS)) + DONE,
    "chat-comments": b': "model":"up/m-1"\n\n: OPENROUTER PROCESSING\n\n' + CHAT.replace(b"\n\n", b"\n\n: ping\n\n"),
    "chat-fields": CHAT.replace(b"data: ", b'id: "model":"up/m-1"\nevent: chunk\nretry: 10\ndata: ').rstrip(b"\n"),
    "chat-no-final-newline": CHAT.rstrip(b"\n"),
    "chat-cut": CHAT[:-30],
    "chat-usage": b"".join(event(chat(word, usage=None)) for word in WORDS) + event(chat("", usage=USAGE)) + DONE,
    "chat-bom": b"\xef\xbb\xbf" + CHAT,
    "chat-other-model": event(chat("a")) + event({**chat("b"), "model": "other"}) + event(chat("c")) + DONE,
    "chat-model-last": b"".join(event({"choices": [{"text": w}], "model": SERVED}) for w in WORDS) + DONE,
    "chat-nested-model": event(chat("a")) + event(chat("b", meta={"model": SERVED})) + event(chat("c")) + DONE,
    "nested-first": event(chat("a")) + event({"meta": {"model": SERVED}, "model": SERVED}) * 2 + DONE,
    "only-nested": event(chat("a")) + event({"meta": {"model": SERVED}}) + event([{"model": SERVED}]) + DONE,
    "escaped-value": CHAT.replace(b'"model":"up/m-1"', b'"model":"up\\/m-\\u0031"'),
    "escaped-key": CHAT.replace(b'"model":"up/m-1"', b'"mod\\u0065l":"up/m-1"'),
    "quoted-key": event(chat("a")) + b'data: {"x\\"model":"up/m-1"}\n\n' + event(chat("b")) + DONE,
    "both-keys": event(chat("a", message={"model": SERVED}, response={"model": SERVED})) * 2 + DONE,
    "completions": event(TEXT) * 3 + DONE,
    "anthropic": ANTHROPIC,
    "anthropic-crlf": ANTHROPIC.replace(b"\n", b"\r\n"),
    "anthropic-bare": re.sub(rb"event: .*\n", b"", ANTHROPIC),
    "responses": RESPONSES,
    "responses-crlf": RESPONSES.replace(b"\n", b"\r\n"),
    "multi-line": b'data: {"model":\ndata: "up/m-1"}\n\n' + CHAT,
    "multi-line-crlf": b'event: x\r\ndata:{"id": 1,\r\ndata: "model":\r\n: note\r\ndata: "up/m-1"}\r\n\r\n' + CHAT,
    "multi-line-cr": b'data: {"id": 1,\rdata: "model":"up/m-1"}\r\r' + CHAT,
    "multi-line-later": CHAT
    + b'data: {"response":{\nid: 1\ndata: "model" : "up/m-1"},"model":\ndata: "up/m-1"\ndata: }\n\n'
    + CHAT,
    "multi-line-not-json": b'data: {"model":"up/m-1"\ndata: hello\n\n' + CHAT,
    "multi-line-cut": CHAT + b'data: {"id":1,\ndata: "model":"up/m-1"}',
    "twice": event(chat("a")) + b'data: {"model":"up/m-1" , "x":1,"x":2, "model": "up/m-1"}\r\n\r\n' + CHAT,
    "not-json-later": CHAT + b'data: {"id":"chatcmpl-1","model":"up/m-1" oops\n\ndata: {"model":"up/m-1"]\n\n' + CHAT,
    "not-json": b"data: hello\n\ndata\n\ndatax: 1\n\ndata:\n\n" + CHAT,
    "bad-utf8": event(chat("a")) + event(chat("b")).replace(b'"b"', b'"\xff\xe2\x82"') + DONE,
    "error-event": event(chat("a")) + b'event: error\ndata: {"error":{"message":"x"}}\n\n',
    "done-without-space": CHAT.replace(b"data: [DONE]", b"data:[DONE]"),
    "blank": b"\n\n\r\n\r\r",
    "empty": b"",
}


def value_end(text: str, at: int) -> int:
    return json.JSONDecoder(strict=False).raw_decode(text, at)[1]


def skip(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def model_spans(text: str, at: int, inner: tuple[str, ...]) -> list[tuple[int, int]]:
    """Find the values to rewrite in the object at ``at``, key by key."""
    spans = []
    at = skip(text, at + 1)
    while text[at] != "}":
        key, at = json.decoder.scanstring(text, at + 1, False)
        at = skip(text, skip(text, at) + 1)
        end = value_end(text, at)
        if key == "model" and text[at] == '"' and json.loads(text[at:end]) == SERVED:
            spans.append((at, end))
        elif key in inner and text[at] == "{":
            spans += model_spans(text, at, ())
        at = skip(text, end)
        at = skip(text, at + 1) if text[at] == "," else at
    return spans


def reference_line(line: bytes) -> bytes:
    head = re.match(rb"data:\s*", line)
    if head is None:
        return line
    text = line[head.end() :].decode("latin-1")
    try:
        if not isinstance(json.loads(text), dict):
            return line
    except ValueError:
        return line
    for start, end in reversed(model_spans(text, 0, ("message", "response"))):
        text = text[:start] + json.dumps(SHOWN) + text[end:]
    return line[: head.end()] + text.encode("latin-1")


def reference_event(lines: list[bytes]) -> list[bytes]:
    """Rewrite line by line; from one on that is no JSON but the start of an object, all lines together."""
    done: list[bytes] = []
    for at, line in enumerate(lines):
        if re.match(rb"data:\s*\{", line) and reference_line(line) == line and not whole(line[5:]):
            return done + reference_lines(lines[at:])
        done.append(reference_line(line))
    return done


def whole(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text.decode("latin-1")), dict)
    except ValueError:
        return False


def reference_lines(lines: list[bytes]) -> list[bytes]:
    split = [re.fullmatch(rb"(data:|(?!data:)[^\r\n]*)([^\r\n]*)(\r?\n?)", line) for line in lines]
    parts = [match.groups() for match in split if match is not None]
    joined = b"data:" + b"\n".join(value for _, value, _ in parts)
    values = reference_line(joined).removeprefix(b"data:").split(b"\n")
    return [field + value + end for (field, _, end), value in zip(parts, values, strict=True)]


def reference(stream: bytes) -> bytes:
    mark = b"\xef\xbb\xbf" if stream.startswith(b"\xef\xbb\xbf") else b""
    lines = re.findall(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", stream.removeprefix(mark))
    events: list[list[bytes]] = [[]]
    for line in lines:
        events[-1].append(line)
        if not line.strip(b"\r\n"):
            events.append([])
    return mark + b"".join(line for event in events for line in reference_event(event))


def rewrite(*parts: bytes, served: str = SERVED) -> tuple[bytes, SseRewriter]:
    rewriter = SseRewriter(served, SHOWN)
    out = [rewriter.feed(part) for part in parts if part]
    return b"".join([*out, rewriter.finish()]), rewriter


def notes(rewriter: SseRewriter) -> tuple[bool, bool, Usage | None]:
    return rewriter.started, rewriter.done_seen, rewriter.usage


@pytest.mark.parametrize("name", STREAMS)
def test_equals_the_reference_cut_at_any_byte(name: str) -> None:
    stream = STREAMS[name]
    expected = reference(stream)
    whole, rewriter = rewrite(stream)
    assert whole == expected
    for at in range(len(stream)):
        out, cut = rewrite(stream[:at], stream[at:])
        assert out == expected, at
        assert notes(cut) == notes(rewriter), at


@pytest.mark.parametrize("name", STREAMS)
def test_equals_the_reference_in_small_pieces(name: str) -> None:
    stream = STREAMS[name]
    for size in (1, 2, 3, 7, 64):
        out, _ = rewrite(*(stream[at : at + size] for at in range(0, len(stream), size)))
        assert out == reference(stream)


@pytest.mark.parametrize("name", STREAMS)
def test_equals_the_reference_event_by_event(name: str) -> None:
    parts = re.split(rb"(?<=\n\n)", STREAMS[name])
    assert rewrite(*parts)[0] == reference(STREAMS[name])


# A cut line followed by another one is no JSON any more, which the short ways do not check.
MIXED = sorted(set(STREAMS) - {"chat-cut"})


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(MIXED), min_size=1, max_size=3), st.lists(st.integers(1, 400), max_size=12))
def test_equals_the_reference_for_any_mixture_and_cuts(names: list[str], sizes: list[int]) -> None:
    stream = b"".join(STREAMS[name] + b"\n" for name in names)
    parts = []
    rest = stream
    for size in sizes:
        parts.append(rest[:size])
        rest = rest[size:]
    assert rewrite(*parts, rest)[0] == reference(stream)


@pytest.mark.parametrize("name", STREAMS)
def test_equal_names_pass_everything_at_once(name: str) -> None:
    stream = STREAMS[name]
    _, seen = rewrite(stream)
    for size in (1, 5, 10_000):
        rewriter = SseRewriter("x", "x")
        for at in range(0, len(stream), size):
            assert rewriter.feed(stream[at : at + size]) == stream[at : at + size]
        assert rewriter.finish() == b""
        assert notes(rewriter) == notes(seen)


@pytest.mark.parametrize(
    ("name", "done", "usage"),
    [
        ("chat", True, None),
        ("chat-crlf", True, None),
        ("chat-cr", True, None),
        ("chat-no-final-newline", True, None),
        ("chat-cut", False, None),
        ("chat-usage", True, Usage(5, 6)),
        ("anthropic", True, Usage(7, 12)),
        ("anthropic-bare", True, Usage(7, 12)),
        ("responses", True, Usage(3, 4)),
        ("error-event", False, None),
        ("done-without-space", True, None),
        ("blank", False, None),
    ],
)
def test_notes_the_end_and_the_usage(name: str, done: bool, usage: Usage | None) -> None:
    _, rewriter = rewrite(STREAMS[name])
    assert (rewriter.done_seen, rewriter.usage) == (done, usage)
    assert rewriter.started == (name != "blank")


def test_words_in_a_text_do_not_end_the_answer() -> None:
    _, rewriter = rewrite(event(chat("data: [DONE] message_stop response.completed")))
    assert not rewriter.done_seen


def test_only_a_line_that_could_need_a_rewrite_is_held() -> None:
    rewriter = SseRewriter(SERVED, SHOWN)
    assert rewriter.feed(b": first\n") == b": first\n"
    assert rewriter.feed(b": pi") == b": pi"
    assert rewriter.feed(b"ng\nda") == b"ng\n"
    assert rewriter.feed(b"ta: {") == b""
    assert rewriter.feed(b'"model":"up/m-1"}\n') == b'data: {"model":"ws/m-1"}\n'
    assert rewriter.feed(b"id: 7") == b"id: 7"


LONG = b'"x":"' + b"y" * LINE_LIMIT + b'"'


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b'data: {"model":"<>",%b}\n', id="top-level"),
        pytest.param(b'data:{"type":"response.completed","response":{"a":[1],"model" : "<>",%b}}\r\n', id="response"),
        pytest.param(b'data: {"message":{"model":"<>"},"a":{"model":"up/m-1"},%b}\r', id="message"),
        pytest.param(b'data: {%b,"model":"up/m-1"}\n', id="late"),
        pytest.param(b': {"model":"up/m-1",%b}\n', id="comment"),
        pytest.param(b'data: {"model":"other",%b}\n', id="another-model"),
    ],
)
@pytest.mark.parametrize("size", [2 * LINE_LIMIT, LINE_LIMIT + 1, 300_000, 65_536])
def test_of_a_line_over_the_limit_the_start_is_rewritten(line: bytes, size: int) -> None:
    line = line.replace(b"%b", LONG)
    stream = event(chat("a")) + line.replace(b"<>", b"up/m-1") + b"\n" + event(chat("b"))
    out, _ = rewrite(*(stream[at : at + size] for at in range(0, len(stream), size)))
    assert out == reference(event(chat("a"))) + line.replace(b"<>", b"ws/m-1") + b"\n" + reference(event(chat("b")))


def test_a_line_too_deep_to_be_decoded_is_rewritten_by_its_brackets() -> None:
    line = b'data: {"model":"<>","x":' + b"[" * 5000 + b"]" * 5000 + b"}\n\n"
    assert rewrite(line.replace(b"<>", b"up/m-1"))[0] == line.replace(b"<>", b"ws/m-1")


def test_an_event_of_many_lines_over_the_limit_is_not_held() -> None:
    rewriter = SseRewriter(SERVED, SHOWN)
    lines = [b'data: {"model":\n', *(b"data: " + b"y" * 65_536 + b"\n" for _ in range(40))]
    out = [rewriter.feed(line) for line in lines]
    assert sum(map(len, out)) > 2 * LINE_LIMIT
    assert b"".join([*out, rewriter.finish()]) == b"".join(lines)


def test_a_line_over_the_limit_is_not_held() -> None:
    rewriter = SseRewriter(SERVED, SHOWN)
    sent = sum(len(rewriter.feed(b"data: " + b"y" * 65_536 if at == 0 else b"y" * 65_536)) for at in range(40))
    assert sent == 6 + 40 * 65_536
