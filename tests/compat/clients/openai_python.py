"""What applications do with OpenAI's Python SDK. No retries unless a call says so."""

from __future__ import annotations

from typing import Any

from openai import AsyncOpenAI, OpenAI

PROMPT: Any = [{"role": "user", "content": "Hello"}]
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tell the weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


def _client(base_url: str, retries: int = 0) -> OpenAI:
    return OpenAI(base_url=base_url, api_key="not-needed", max_retries=retries)


def chat(base_url: str, model: str, retries: int = 0) -> dict[str, Any]:
    with _client(base_url, retries) as client:
        answer = client.chat.completions.create(model=model, messages=PROMPT)
    choice = answer.choices[0]
    return {
        "model": answer.model,
        "content": choice.message.content,
        "finish": choice.finish_reason,
        "total": answer.usage and answer.usage.total_tokens,
    }


def chat_stream(base_url: str, model: str) -> dict[str, Any]:
    with _client(base_url) as client:
        stream = client.chat.completions.create(
            model=model, messages=PROMPT, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
    return _joined(chunks)


async def chat_async(base_url: str, model: str) -> dict[str, Any]:
    async with AsyncOpenAI(base_url=base_url, api_key="not-needed", max_retries=0) as client:
        answer = await client.chat.completions.create(model=model, messages=PROMPT)
    return {"model": answer.model, "content": answer.choices[0].message.content}


async def chat_async_stream(base_url: str, model: str) -> dict[str, Any]:
    async with AsyncOpenAI(base_url=base_url, api_key="not-needed", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model=model, messages=PROMPT, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    return _joined(chunks)


def _joined(chunks: list[Any]) -> dict[str, Any]:
    deltas = [chunk.choices[0] for chunk in chunks if chunk.choices]
    return {
        "models": sorted({chunk.model for chunk in chunks}),
        "content": "".join(delta.delta.content or "" for delta in deltas),
        "finish": deltas[-1].finish_reason,
        "total": next((chunk.usage.total_tokens for chunk in chunks if chunk.usage), None),
        "chunks": len(chunks),
    }


def leave_stream(base_url: str, model: str) -> str:
    """Take one chunk and go away."""
    with _client(base_url) as client:
        stream = client.chat.completions.create(model=model, messages=PROMPT, stream=True)
        first = next(iter(stream))
        stream.close()
    return first.model


def tools(base_url: str, model: str) -> dict[str, Any]:
    with _client(base_url) as client:
        answer = client.chat.completions.create(model=model, messages=PROMPT, tools=TOOLS, tool_choice="required")
    call: Any = (answer.choices[0].message.tool_calls or [None])[0]
    return {"finish": answer.choices[0].finish_reason, "name": call.function.name, "arguments": call.function.arguments}


def tools_stream(base_url: str, model: str) -> dict[str, Any]:
    with _client(base_url) as client:
        stream = client.chat.completions.create(
            model=model, messages=PROMPT, tools=TOOLS, tool_choice="required", stream=True
        )
        calls = [c for chunk in stream if chunk.choices for c in chunk.choices[0].delta.tool_calls or []]
    return {
        "name": "".join(call.function.name or "" for call in calls if call.function),
        "arguments": "".join(call.function.arguments or "" for call in calls if call.function),
    }


def completion(base_url: str, model: str) -> dict[str, Any]:
    with _client(base_url) as client:
        answer = client.completions.create(model=model, prompt="Hello")
    return {"model": answer.model, "text": answer.choices[0].text}


def embeddings(base_url: str, model: str) -> dict[str, Any]:
    """The SDK asks for base64 and decodes it."""
    with _client(base_url) as client:
        answer = client.embeddings.create(model=model, input=["one", "two"])
    return {"model": answer.model, "lengths": [len(item.embedding) for item in answer.data]}


def responses(base_url: str, model: str) -> dict[str, Any]:
    with _client(base_url) as client:
        answer = client.responses.create(model=model, input="Hello")
    return {"model": answer.model, "text": answer.output_text, "status": answer.status}


def responses_stream(base_url: str, model: str) -> dict[str, Any]:
    with _client(base_url) as client:
        events: list[Any] = list(client.responses.create(model=model, input="Hello", stream=True))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    return {"first": events[0].type, "last": events[-1].type, "text": text, "model": events[-1].response.model}


def models(base_url: str) -> list[str]:
    with _client(base_url) as client:
        return [model.id for model in client.models.list()]


def model(base_url: str, name: str) -> str:
    with _client(base_url) as client:
        return client.models.retrieve(name).id
