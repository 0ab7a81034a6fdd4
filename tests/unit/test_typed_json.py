from __future__ import annotations

import json

import msgspec
import pytest

from junctor.errors import InvalidField
from junctor.v1 import inference_pb2 as pb
from services.inference_router.typed_json import from_json, object_of, to_json


def around(message, text: str):
    """JSON → typed → bytes → typed → JSON."""
    from_json(message, object_of(text.encode()))
    again = type(message).FromString(message.SerializeToString())
    return message, msgspec.json.encode(to_json(again)).decode()


UNKNOWN = ",".join(
    f'"x_{n}":{value}'
    for n, value in enumerate(
        ["9007199254740993", "1.0", '"\\u00e9"', "null", "[]", "{}", "true", '{"a":[1,{"b":null}]}', '"😀"', "-0.0e5"]
    )
)

REQUEST = (
    '{"messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"t",'
    '"cache_control":{"type":"ephemeral"}},{"type":"image_url","image_url":{"url":"https://x","detail":"low","q":1}},'
    '{"type":"input_audio","input_audio":{"data":"AA==","format":"wav"}},{"type":"file","file":{"file_id":"f"}},'
    '{"type":"refusal","refusal":"no"},{"type":"video","video":{"u":1}}]},'
    '{"role":"assistant","content":null,"tool_calls":[{"id":"t","type":"function","function":'
    '{"name":"f","arguments":"{\\"a\\": 1}"}},{"id":"u","type":"custom","custom":{"name":"c","input":"i"}}]},'
    '{"role":"tool","content":"","tool_call_id":"t"},{"role":"assistant","reasoning_content":"r","content":[],'
    '"audio":{"id":"a"},"name":"n","refusal":"x","reasoning":"y"}],'
    '"tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object",'
    '"properties":{}},"strict":false}},{"type":"web_search","limits":{"n":3}}],'
    '"tool_choice":{"type":"function","function":{"name":"f"}},"parallel_tool_calls":false,'
    '"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"maximum":1.50},"strict":true}},'
    '"temperature":0.7,"top_p":0.0,"frequency_penalty":-0.5,"presence_penalty":0.25,"logit_bias":{"50256":-100},'
    '"n":2,"stop":["a","b"],"seed":-9223372036854775808,"max_tokens":0,"max_completion_tokens":5,"logprobs":true,'
    '"top_logprobs":3,"user":"","metadata":{"k":"v"},"reasoning_effort":"high","service_tier":"flex","store":false,'
    '"modalities":["text","audio"],"prediction":{"type":"content","content":"x"},"audio":{"voice":"v"},'
    '"verbosity":"low","stream_options":{"include_usage":true,"z":0},' + UNKNOWN + "}"
)

RESPONSE = (
    '{"id":"i","object":"chat.completion","created":1700000000,"model":"default/m","choices":[{"index":0,"message":'
    '{"role":"assistant","content":"hey","reasoning_content":"r","annotations":[{"a":1}]},"finish_reason":"stop",'
    '"logprobs":{"content":[{"token":"h","logprob":-0.10}]},"stop_reason":null},{"index":1,"message":{"role":'
    '"assistant","content":null,"tool_calls":[{"index":0,"id":"t","type":"function","function":{"name":"f",'
    '"arguments":""}}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":1,"completion_tokens":0,'
    '"total_tokens":1,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":4,'
    '"accepted_prediction_tokens":0},"cost":0.10},"system_fingerprint":"fp","service_tier":"default",' + UNKNOWN + "}"
)


@pytest.mark.parametrize(
    ("cls", "text"),
    [(pb.ChatCompletionRequest, REQUEST), (pb.ChatCompletionResponse, RESPONSE)],
    ids=["chat request", "chat response"],
)
def test_everything_survives_both_ways(cls, text):
    _, back = around(cls(), text)
    assert json.loads(back) == json.loads(text)
    for kept in ("9007199254740993", "1.0,", '"\\u00e9"', "-0.0e5"):
        assert kept in back


UNFIT = {
    "string where a list is": '{"stop":"x"}',
    "empty list": '{"tools":[],"stop":[]}',
    "empty map": '{"metadata":{}}',
    "integer out of range": '{"seed":9223372036854775808,"n":2147483648}',
    "fraction where an integer is": '{"max_tokens":1.5}',
    "number where a string is": '{"user":5}',
    "map with other values": '{"metadata":{"a":1}}',
    "object where a string is": '{"messages":[{"role":"user","content":{"a":1}}]}',
    "list with other items": '{"messages":[1,{"role":"user"}]}',
    "part without type": '{"messages":[{"content":[{"text":"x"},"bare",null]}]}',
    "part with another value": '{"messages":[{"content":[{"type":"text","text":5}]}]}',
    "choice that is not modelled": '{"tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"auto"}}}',
    "choice with more": '{"tool_choice":{"type":"function","function":{"name":"f"},"x":1}}',
    "mode": '{"tool_choice":"required"}',
    "functions of old": '{"functions":[{"name":"f"}],"function_call":"auto"}',
}


@pytest.mark.parametrize("text", UNFIT.values(), ids=UNFIT.keys())
def test_what_does_not_fit_its_type_survives(text):
    _, back = around(pb.ChatCompletionRequest(), text)
    assert json.loads(back) == json.loads(text)


def test_null_of_a_known_field_is_absent():
    message, back = around(pb.ChatCompletionResponse(), '{"id":null,"usage":null,"choices":[{"logprobs":null}]}')
    assert json.loads(back) == {"choices": [{}]}
    assert not message.HasField("id")


FORMS = {
    "one text is a string": (pb.ChatMessage(content=[{"text": "a"}]), {"content": "a"}),
    "no part is absent": (pb.ChatMessage(), {}),
    "two texts are parts": (
        pb.ChatMessage(content=[{"text": "a"}, {"text": "b"}]),
        {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ),
    "text with more is a part": (
        pb.ChatMessage(content=[{"text": "a", "extra_json": b'{"c":1}'}]),
        {"content": [{"type": "text", "text": "a", "c": 1}]},
    ),
    "two texts as a string": (
        pb.ChatMessage(content=[{"text": "a"}, {"text": "b"}], content_form=pb.CONTENT_FORM_STRING),
        {"content": "ab"},
    ),
    "one text as a part": (
        pb.ChatMessage(content=[{"text": "a"}], content_form=pb.CONTENT_FORM_PARTS),
        {"content": [{"type": "text", "text": "a"}]},
    ),
    "no part as a list": (pb.ChatMessage(content_form=pb.CONTENT_FORM_PARTS), {"content": []}),
    "null": (pb.ChatMessage(content_form=pb.CONTENT_FORM_NULL), {"content": None}),
    "empty text": (pb.ChatMessage(content=[{"text": ""}]), {"content": ""}),
}


@pytest.mark.parametrize(("message", "expected"), FORMS.values(), ids=FORMS.keys())
def test_content_takes_the_form_that_is_asked_for(message, expected):
    assert json.loads(msgspec.json.encode(to_json(message))) == expected


BAD = {
    "part without kind": (pb.ChatMessage(content=[{}]), "content[0]"),
    "string of other parts": (
        pb.ChatMessage(content=[{"refusal": "a"}], content_form=pb.CONTENT_FORM_STRING),
        "content_form",
    ),
    "raw part": (pb.ChatMessage(content=[{"json": b"{"}]), "content[0].json"),
    "empty JSON": (pb.ChatMessage(audio=b""), "audio"),
    "nested extra": (pb.ChatMessage(tool_calls=[{"extra_json": b"1"}]), "tool_calls[0].extra_json"),
    "invalid UTF-8": (pb.ChatMessage(audio=b'"\xff"'), "audio"),
    "number of 5,000 digits": (pb.ChatMessage(extra_json=b'{"a":' + b"1" * 5000 + b"}"), "extra_json"),
}


@pytest.mark.parametrize(("message", "field"), BAD.values(), ids=BAD.keys())
def test_what_is_not_json_names_its_field(message, field):
    with pytest.raises(InvalidField) as caught:
        to_json(message)
    assert [v.field for v in caught.value.violations] == [field]


EMBEDDINGS = {
    "floats": '{"index":0,"object":"embedding","embedding":[0.5,-2.0]}',
    "base64": '{"index":0,"embedding":"AAAAPw=="}',
    "other": '{"embedding":{"indices":[1],"values":[0.5]}}',
    "empty": '{"embedding":[]}',
}


@pytest.mark.parametrize("text", EMBEDDINGS.values(), ids=EMBEDDINGS.keys())
def test_embeddings_survive_in_every_form(text):
    _, back = around(pb.Embedding(), text)
    assert json.loads(back) == json.loads(text)
