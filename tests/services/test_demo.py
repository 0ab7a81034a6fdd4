"""The demo provider over real sockets: with plain HTTP and with the OpenAI SDK."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import math
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from openai import AsyncOpenAI, NotFoundError

from services.demo import server, text
from services.demo.app import DemoApp

ECHO = "demo/echo-1"
EMBED = "demo/embed-1"
HELLO: Any = [{"role": "user", "content": "Hello, junctor!"}]
WEATHER = {
    "name": "get_weather",
    "description": "Current weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
ASKS: Any = [{"role": "user", "content": "What is the weather in Paris?"}]


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def demo() -> AsyncIterator[server.RunningDemo]:
    running = await server.start(pace=0)
    yield running
    await running.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def http(demo: server.RunningDemo) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=demo.url, trust_env=False) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def openai(demo: server.RunningDemo) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{demo.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def events(body: str) -> list[tuple[str | None, Any]]:
    found: list[tuple[str | None, Any]] = []
    for block in body.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        data = fields["data"]
        found.append((fields.get("event"), data if data == "[DONE]" else json.loads(data)))
    return found


async def test_models_are_listed_and_found_by_id(openai: AsyncOpenAI) -> None:
    assert [model.id async for model in openai.models.list()] == [ECHO, EMBED]
    assert (await openai.models.retrieve(ECHO)).owned_by == "junctor-demo"


async def test_chat_repeats_the_prompt_and_counts_its_tokens(openai: AsyncOpenAI) -> None:
    done = await openai.chat.completions.create(model=ECHO, messages=HELLO)
    content = done.choices[0].message.content or ""
    assert "Hello, junctor!" in content
    assert done.choices[0].finish_reason == "stop"
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (4, text.count(content))
    assert done.usage.total_tokens == 4 + text.count(content)


async def test_the_same_request_has_byte_for_byte_the_same_answer(http: httpx.AsyncClient) -> None:
    request = {"model": ECHO, "messages": HELLO, "stream": True}
    first, second = [await http.post("/v1/chat/completions", json=request) for _ in range(2)]
    assert first.content == second.content


async def test_a_streamed_chat_says_what_the_whole_one_says(openai: AsyncOpenAI) -> None:
    whole = await openai.chat.completions.create(model=ECHO, messages=HELLO)
    stream = await openai.chat.completions.create(
        model=ECHO,
        messages=HELLO,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == whole.choices[0].message.content
    assert choices[-1].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_a_chat_stream_without_the_option_has_no_usage_and_ends_in_done(
    http: httpx.AsyncClient,
) -> None:
    answer = await http.post("/v1/chat/completions", json={"model": ECHO, "messages": HELLO, "stream": True})
    found = events(answer.text)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert found[-1] == (None, "[DONE]")
    assert all("usage" not in data for _, data in found[:-1])


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_a_token_limit_cuts_the_answer_and_says_so(http: httpx.AsyncClient, field: str) -> None:
    answer = await http.post("/v1/chat/completions", json={"model": ECHO, "messages": HELLO, field: 3})
    body = answer.json()
    assert body["choices"][0]["finish_reason"] == "length"
    assert text.count(body["choices"][0]["message"]["content"]) == 3
    assert body["usage"]["completion_tokens"] == 3


async def test_n_choices_and_stop_sequences(http: httpx.AsyncClient) -> None:
    request = {"model": ECHO, "messages": HELLO, "n": 3, "stop": ["junctor"]}
    choices = (await http.post("/v1/chat/completions", json=request)).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    assert choices[0]["message"]["content"] == "You said: Hello, "
    assert len({choice["message"]["content"] for choice in choices}) == 3


async def test_a_tool_that_the_prompt_asks_for_is_called(openai: AsyncOpenAI) -> None:
    tools: Any = [{"type": "function", "function": WEATHER}]
    done = await openai.chat.completions.create(model=ECHO, messages=ASKS, tools=tools)
    choice = done.choices[0]
    assert choice.finish_reason == "tool_calls"
    call: Any = (choice.message.tool_calls or [])[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    history = [*ASKS, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "12 °C, rain"}]
    after = await openai.chat.completions.create(model=ECHO, messages=history, tools=tools)
    assert after.choices[0].message.content == "The tool answered: 12 °C, rain"


async def test_streamed_tool_arguments_join_to_json(http: httpx.AsyncClient) -> None:
    tools = [{"type": "function", "function": WEATHER}]
    request = {"model": ECHO, "messages": ASKS, "tools": tools, "stream": True}
    found = events((await http.post("/v1/chat/completions", json=request)).text)
    calls = [data["choices"][0]["delta"].get("tool_calls") for _, data in found[:-1]]
    arguments = "".join(call[0]["function"]["arguments"] for call in calls if call)
    assert json.loads(arguments) == {"city": "Paris"}


@pytest.mark.parametrize(
    ("choice", "messages", "called"),
    [("none", ASKS, False), ("auto", HELLO, False), ("required", HELLO, True)],
    ids=["none", "not-asked-for", "required"],
)
async def test_tool_choice_decides(
    http: httpx.AsyncClient, choice: str, messages: list[dict[str, str]], called: bool
) -> None:
    tools = [{"type": "function", "function": WEATHER}]
    request = {"model": ECHO, "messages": messages, "tools": tools, "tool_choice": choice}
    body = (await http.post("/v1/chat/completions", json=request)).json()
    assert ("tool_calls" in body["choices"][0]["message"]) is called


async def test_structured_output_fits_its_schema(http: httpx.AsyncClient) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "report", "schema": schema}}
    request = {"model": ECHO, "messages": ASKS, "response_format": wanted}
    body = (await http.post("/v1/chat/completions", json=request)).json()
    assert json.loads(body["choices"][0]["message"]["content"]) == {"city": "Paris", "degrees": 1}


async def test_completions_answer_each_prompt(openai: AsyncOpenAI) -> None:
    done = await openai.completions.create(model=ECHO, prompt=["first", "second"], n=2)
    assert ["first" in choice.text for choice in done.choices] == [True, True, False, False]
    assert done.usage is not None
    assert done.usage.completion_tokens == sum(text.count(choice.text) for choice in done.choices)
    stream = await openai.completions.create(model=ECHO, prompt="first", stream=True)
    streamed = "".join([chunk.choices[0].text async for chunk in stream])
    assert streamed == done.choices[0].text


async def test_responses_whole_and_streamed_agree(openai: AsyncOpenAI) -> None:
    whole = await openai.responses.create(model=ECHO, input="Hello there")
    assert "Hello there" in whole.output_text
    seen = [event async for event in await openai.responses.create(model=ECHO, input="Hello there", stream=True)]
    assert [event.type for event in seen[:4]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    deltas = "".join(event.delta for event in seen if event.type == "response.output_text.delta")
    last = seen[-1]
    assert last.type == "response.completed"
    assert deltas == last.response.output_text == whole.output_text
    assert last.response.usage == whole.usage


async def test_response_events_are_named_and_a_limit_ends_incomplete(http: httpx.AsyncClient) -> None:
    request = {"model": ECHO, "input": "Hello there", "stream": True, "max_output_tokens": 2}
    found = events((await http.post("/v1/responses", json=request)).text)
    assert all(name == data["type"] for name, data in found)
    assert found[-1][0] == "response.incomplete"
    assert found[-1][1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_a_response_calls_a_tool(openai: AsyncOpenAI) -> None:
    tools: Any = [{"type": "function", "strict": False, **WEATHER}]
    done = await openai.responses.create(model=ECHO, input="How is the weather in Oslo?", tools=tools)
    call: Any = done.output[0]
    assert (call.type, call.name, json.loads(call.arguments)) == (
        "function_call",
        "get_weather",
        {"city": "Oslo"},
    )


async def test_embeddings_are_unit_vectors_that_know_shared_words(openai: AsyncOpenAI) -> None:
    said = ["the cat sat", "the cat slept", "quarterly revenue"]
    done = await openai.embeddings.create(model=EMBED, input=said)
    cat, kitten, money = [entry.embedding for entry in done.data]
    assert len(cat) == 256
    assert math.isclose(math.hypot(*cat), 1, rel_tol=1e-5)
    near = sum(a * b for a, b in zip(cat, kitten, strict=True))
    far = sum(a * b for a, b in zip(cat, money, strict=True))
    assert near > far + 0.2
    assert done.usage.prompt_tokens == 8


async def test_embeddings_dimensions_and_base64(http: httpx.AsyncClient) -> None:
    request = {"model": EMBED, "input": ["", "x"], "dimensions": 7}
    plain = (await http.post("/v1/embeddings", json=request)).json()["data"]
    packed = (await http.post("/v1/embeddings", json=request | {"encoding_format": "base64"})).json()["data"]
    for entry, other in zip(plain, packed, strict=True):
        assert math.isclose(math.hypot(*entry["embedding"]), 1, rel_tol=1e-9)
        decoded = struct.unpack("<7f", base64.b64decode(other["embedding"]))
        assert decoded == pytest.approx(entry["embedding"])


async def test_messages_in_anthropics_dialect(http: httpx.AsyncClient) -> None:
    request = {"model": ECHO, "messages": HELLO, "max_tokens": 500, "system": "Be brief"}
    whole = (await http.post("/v1/messages", json=request)).json()
    assert whole["stop_reason"] == "end_turn"
    found = events((await http.post("/v1/messages", json=request | {"stream": True})).text)
    assert all(name == data["type"] for name, data in found)
    assert (found[0][0], found[-1][0]) == ("message_start", "message_stop")
    said = "".join(data["delta"]["text"] for name, data in found if name == "content_block_delta")
    assert said == whole["content"][0]["text"]
    assert found[-2][1]["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    counted = (await http.post("/v1/messages/count_tokens", json=request)).json()
    assert counted == {"input_tokens": whole["usage"]["input_tokens"]} == {"input_tokens": 6}


async def test_messages_call_a_tool_and_take_its_result(http: httpx.AsyncClient) -> None:
    tools = [{"name": "get_weather", "input_schema": WEATHER["parameters"]}]
    request = {"model": ECHO, "messages": ASKS, "max_tokens": 500, "tools": tools}
    whole = (await http.post("/v1/messages", json=request)).json()
    block = whole["content"][0]
    assert (whole["stop_reason"], block["type"], block["input"]) == (
        "tool_use",
        "tool_use",
        {"city": "Paris"},
    )
    found = events((await http.post("/v1/messages", json=request | {"stream": True})).text)
    deltas = [data["delta"] for name, data in found if name == "content_block_delta"]
    assert json.loads("".join(delta["partial_json"] for delta in deltas)) == {"city": "Paris"}
    result = [{"type": "tool_result", "tool_use_id": block["id"], "content": "rain"}]
    history = [*ASKS, {"role": "assistant", "content": [block]}, {"role": "user", "content": result}]
    after = (await http.post("/v1/messages", json=request | {"messages": history})).json()
    assert after["content"] == [{"type": "text", "text": "The tool answered: rain"}]


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/chat/completions", b"{", 400, "invalid_json"),
        ("/v1/chat/completions", b"[1]", 400, "invalid_json"),
        ("/v1/chat/completions", b"\xff", 400, "invalid_json"),
        ("/v1/chat/completions", b"[" * 100_000, 400, "invalid_json"),
        ("/v1/chat/completions", b'{"messages":[]}', 400, None),
        ("/v1/chat/completions", b'{"model":7}', 400, None),
        ("/v1/chat/completions", b'{"model":"gpt-9","messages":[]}', 404, "model_not_found"),
        ("/v1/chat/completions", b'{"model":"demo/embed-1","messages":[{}]}', 400, None),
        ("/v1/chat/completions", b'{"model":"demo/echo-1"}', 400, None),
        ("/v1/chat/completions", b'{"model":"demo/echo-1","messages":["hi"]}', 400, None),
        (
            "/v1/chat/completions",
            b'{"model":"demo/echo-1","messages":[{"role":"user","content":7}]}',
            400,
            None,
        ),
        ("/v1/chat/completions", b'{"model":"demo/echo-1","messages":[{"role":"user"}],"n":0}', 400, None),
        ("/v1/completions", b'{"model":"demo/echo-1"}', 400, None),
        ("/v1/responses", b'{"model":"demo/echo-1","input":[]}', 400, None),
        ("/v1/embeddings", b'{"model":"demo/embed-1","input":[]}', 400, None),
        ("/v1/embeddings", b'{"model":"demo/embed-1","input":"x","encoding_format":"int8"}', 400, None),
        ("/v1/nothing", b"{}", 404, "unknown_url"),
        ("/v1/models", b"{}", 405, "method_not_allowed"),
    ],
)
async def test_refusals_have_openais_shape(
    http: httpx.AsyncClient, path: str, body: bytes, status: int, code: str | None
) -> None:
    answer = await http.post(path, content=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert error["message"]
    assert error["type"] == "invalid_request_error"
    assert (await http.get("/v1/models")).status_code == 200


async def test_anthropics_endpoint_refuses_in_its_own_shape(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/messages", json={"model": "claude", "max_tokens": 1, "messages": HELLO})
    assert answer.status_code == 404
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == "not_found_error"


async def test_the_sdk_raises_not_found_for_an_unknown_model(openai: AsyncOpenAI) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        await openai.chat.completions.create(model="nope", messages=HELLO)


async def test_text_that_utf8_cannot_hold_is_answered(http: httpx.AsyncClient) -> None:
    body = rb'{"model":"demo/echo-1","messages":[{"role":"user","content":"\ud800"}]}'
    assert (await http.post("/v1/chat/completions", content=body)).status_code == 200


async def test_a_stream_ends_when_its_client_leaves() -> None:
    running = await server.start(pace=3600)
    async with httpx.AsyncClient(base_url=running.url, trust_env=False) as client:
        request = {"model": ECHO, "messages": HELLO, "stream": True}
        async with client.stream("POST", "/v1/chat/completions", json=request) as answer:
            assert await anext(answer.aiter_lines())
    await asyncio.wait_for(running.stop(), server.STOP_SECONDS)


async def test_nothing_is_sent_to_a_client_that_left() -> None:
    request = json.dumps({"model": ECHO, "messages": HELLO, "stream": True}).encode()
    received = iter([{"type": "http.request", "body": request}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(received, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions"}
    await DemoApp(pace=3600)(scope, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]


async def test_a_running_demo_takes_no_signal_from_its_host() -> None:
    before = signal.getsignal(signal.SIGINT)
    running = await server.start()
    during = signal.getsignal(signal.SIGINT)
    await running.stop()
    assert during is before


async def test_a_taken_port_raises_and_leaves_no_socket(demo: server.RunningDemo) -> None:
    with pytest.raises(OSError, match="in use"):
        await server.start(port=demo.port)


async def test_stop_may_be_called_twice() -> None:
    running = await server.start()
    await running.stop()
    await running.stop()
    with contextlib.closing(socket.socket()) as probe:
        assert probe.connect_ex(("127.0.0.1", running.port)) != 0


RUN = [sys.executable, "-c", "import typer; from services.demo.command import command; typer.run(command)"]


async def test_the_command_prints_its_url_and_ends_with_zero_on_ctrl_c() -> None:
    process = await asyncio.create_subprocess_exec(*RUN, "--port", "0", stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    first = (await process.stdout.readline()).decode()
    url = first.split(" on ")[1].split(" ")[0]
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{url}/models")).status_code == 200
    process.send_signal(signal.SIGINT)
    assert b"curl" in await process.stdout.read()
    assert await process.wait() == 0


async def test_the_command_says_that_its_port_is_taken(demo: server.RunningDemo) -> None:
    done = await asyncio.to_thread(
        subprocess.run, [*RUN, "--port", str(demo.port)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"junctor: port {demo.port} is taken; use --port\n"
