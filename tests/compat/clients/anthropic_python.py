"""What applications do with Anthropic's Python SDK. No retries."""

from __future__ import annotations

from typing import Any

from anthropic import Anthropic, AsyncAnthropic

PROMPT: Any = [{"role": "user", "content": "Hello"}]


def _client(base_url: str) -> Anthropic:
    return Anthropic(base_url=base_url, api_key="not-needed", max_retries=0)


def message(base_url: str, model: str) -> dict[str, Any]:
    with _client(base_url) as client:
        answer: Any = client.messages.create(model=model, max_tokens=64, messages=PROMPT)
    return {
        "model": answer.model,
        "text": answer.content[0].text,
        "stop": answer.stop_reason,
        "output": answer.usage.output_tokens,
    }


async def message_async(base_url: str, model: str) -> dict[str, Any]:
    async with AsyncAnthropic(base_url=base_url, api_key="not-needed", max_retries=0) as client:
        answer: Any = await client.messages.create(model=model, max_tokens=64, messages=PROMPT)
    return {"model": answer.model, "text": answer.content[0].text}


def stream(base_url: str, model: str) -> dict[str, Any]:
    with (
        _client(base_url) as client,
        client.messages.stream(model=model, max_tokens=64, messages=PROMPT) as events,
    ):
        text = "".join(events.text_stream)
        whole: Any = events.get_final_message()
    return {"model": whole.model, "text": text, "final": whole.content[0].text, "output": whole.usage.output_tokens}


def count(base_url: str, model: str) -> int:
    with _client(base_url) as client:
        return client.messages.count_tokens(model=model, messages=PROMPT).input_tokens
