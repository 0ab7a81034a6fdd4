"""What applications do with LiteLLM against an OpenAI-compatible base. No retries."""

from __future__ import annotations

from typing import Any

import litellm

PROMPT: Any = [{"role": "user", "content": "Hello"}]


def completion(base_url: str, model: str) -> dict[str, Any]:
    answer: Any = litellm.completion(
        model=f"openai/{model}", api_base=base_url, api_key="not-needed", messages=PROMPT, num_retries=0, max_retries=0
    )
    return {"model": answer.model, "content": answer.choices[0].message.content, "total": answer.usage.total_tokens}


async def completion_async(base_url: str, model: str) -> dict[str, Any]:
    answer: Any = await litellm.acompletion(
        model=f"openai/{model}", api_base=base_url, api_key="not-needed", messages=PROMPT, num_retries=0, max_retries=0
    )
    return {"model": answer.model, "content": answer.choices[0].message.content}


def stream(base_url: str, model: str) -> str:
    chunks: Any = litellm.completion(
        model=f"openai/{model}",
        api_base=base_url,
        api_key="not-needed",
        messages=PROMPT,
        stream=True,
        num_retries=0,
        max_retries=0,
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def embedding(base_url: str, model: str) -> int:
    answer: Any = litellm.embedding(
        model=f"openai/{model}", api_base=base_url, api_key="not-needed", input=["Hello"], max_retries=0
    )
    return len(answer.data[0]["embedding"])


def anthropic(base_url: str, model: str) -> dict[str, Any]:
    """LiteLLM in Anthropic's dialect."""
    answer: Any = litellm.completion(
        model=f"anthropic/{model}", api_base=base_url, api_key="not-needed", messages=PROMPT, max_tokens=64
    )
    return {"model": answer.model, "content": answer.choices[0].message.content}
