"""Text of the demo model: cutting into tokens, reading prompts, and the answer to one.

A token is a word of at most twelve characters or one other visible character, with the white space before it;
joined tokens give the text back. Usage numbers count these tokens.
"""

from __future__ import annotations

import re
from typing import Any

from services.demo.wire import RequestRefused

_TOKEN = re.compile(r"\s*(?:\w{1,12}|[^\w\s])|\s+")

EXPLANATION = (
    "I am the demo model of junctor. I repeat what I am told, one word at a time, so that you can watch "
    "requests, streaming and usage work before a real provider is connected."
)


def tokenize(text: str) -> list[str]:
    """Cut ``text`` into tokens whose concatenation is ``text``."""
    return _TOKEN.findall(text)


def count(text: str) -> int:
    """Count the tokens of ``text``."""
    return len(tokenize(text))


def content_text(content: Any, param: str) -> str:
    """Read the text of message content: a string, null, or parts of which those with ``text`` count."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        texts = [part["text"] for part in content if isinstance(part.get("text"), str)]
        return "\n".join(texts)
    raise RequestRefused(f"{param} must be a string or a list of content parts", param=param)


def echo(prompt: str, *, choice: int = 0) -> str:
    """Answer ``prompt``; further choices of one request say which they are."""
    said = prompt.strip()
    opening = f"(Choice {choice + 1}) " if choice else ""
    if not said:
        return f"{opening}You said nothing. {EXPLANATION}"
    gap = "\n\n" if "\n" in said else " "
    return f"{opening}You said:{gap}{said}\n\n{EXPLANATION}"


def tool_report(result: str) -> str:
    """Answer a conversation whose last message is a tool's result."""
    return f"The tool answered: {result.strip() or '(nothing)'}"
