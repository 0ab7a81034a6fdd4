"""The demo model: from a conversation and options to one answer, whatever the dialect of the request."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.demo import text
from services.demo.schema import value_for
from services.demo.wire import Json, RequestRefused, identifier

MAX_OUTPUT_TOKENS = 4096
"""Longest answer; also the limit when a request gives none."""


@dataclass(frozen=True)
class Tool:
    """A function that the request offers, with the JSON Schema of its arguments."""

    name: str
    parameters: Any


@dataclass(frozen=True)
class Prompt:
    """What the model answers: the last words said, and the tokens of everything said."""

    last: str
    tokens: int
    tool_result: bool = False
    """The last words are a tool's result, not the user's."""


@dataclass(frozen=True)
class Options:
    """How to answer."""

    limit: int | None = None
    stop: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    """``auto``, ``none``, ``required`` or a tool's name."""
    schema: Any = None
    """JSON Schema of a structured answer; None: prose."""


@dataclass(frozen=True)
class ToolCall:
    """A call of one of the request's tools; ``arguments`` is JSON text."""

    name: str
    arguments: str

    @property
    def id(self) -> str:
        """Id that depends on the call only."""
        return identifier("call_", self.name, self.arguments)


@dataclass(frozen=True)
class Answer:
    """What the model said: tokens of text, or of the arguments when ``call`` is set."""

    pieces: tuple[str, ...]
    call: ToolCall | None = None
    truncated: bool = False

    @property
    def text(self) -> str:
        """The answer as text; empty when a tool is called."""
        return "" if self.call else "".join(self.pieces)


def answer(prompt: Prompt, options: Options, *, choice: int = 0) -> Answer:
    """Answer ``prompt``: call a tool if one is asked for, else echo, cut at ``stop`` and ``limit``."""
    tool = chosen_tool(prompt, options)
    if tool is not None:
        arguments = json.dumps(value_for(tool.parameters, prompt.last), ensure_ascii=False)
        return Answer(tuple(text.tokenize(arguments)), call=ToolCall(tool.name, arguments))
    pieces = text.tokenize(_cut(_words(prompt, options, choice), options.stop))
    limit = options.limit or MAX_OUTPUT_TOKENS
    return Answer(tuple(pieces[:limit]), truncated=len(pieces) > limit)


def _words(prompt: Prompt, options: Options, choice: int) -> str:
    if options.schema is not None:
        return json.dumps(value_for(options.schema, prompt.last), ensure_ascii=False)
    return text.tool_report(prompt.last) if prompt.tool_result else text.echo(prompt.last, choice=choice)


def _cut(words: str, stops: Sequence[str]) -> str:
    ends = [at for at in map(words.find, stops) if at >= 0]
    return words[: min(ends)] if ends else words


def chosen_tool(prompt: Prompt, options: Options) -> Tool | None:
    """Choose the tool to call; with ``auto`` one whose name shares a word with what the user said."""
    if not options.tools or options.tool_choice == "none":
        return None
    if options.tool_choice == "required":
        return options.tools[0]
    for tool in options.tools:
        if options.tool_choice == tool.name:
            return tool
        if options.tool_choice == "auto" and not prompt.tool_result and _mentions(prompt.last, tool.name):
            return tool
    return None


def _mentions(said: str, name: str) -> bool:
    lowered = said.lower()
    words = set(re.findall(r"[a-z]+", lowered))
    parts = {part.lower() for part in re.findall(r"[A-Z]?[a-z]{4,}|[A-Z]{4,}", name)}
    return name.lower() in lowered or bool(parts & words)


def read_tools(body: Json) -> tuple[Tool, ...]:
    """Read ``tools`` in any of the three dialects: nested ``function``, flat, or with ``input_schema``."""
    listed = body.get("tools") or []
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise RequestRefused("tools must be a list of objects", param="tools")
    flat = [entry["function"] if isinstance(entry.get("function"), dict) else entry for entry in listed]
    return tuple(
        Tool(entry["name"], entry.get("parameters") or entry.get("input_schema") or {"type": "object"})
        for entry in flat
        if isinstance(entry.get("name"), str)
    )


def read_tool_choice(body: Json) -> str:
    """Read ``tool_choice`` in any of the three dialects."""
    choice = body.get("tool_choice") or "auto"
    if isinstance(choice, str):
        return choice
    if not isinstance(choice, dict):
        raise RequestRefused("tool_choice must be a string or an object", param="tool_choice")
    named = choice.get("function") if isinstance(choice.get("function"), dict) else choice
    fallback = {"any": "required"}.get(str(choice.get("type")), str(choice.get("type")))
    return str((named or {}).get("name") or fallback)


def read_stop(body: Json, name: str = "stop") -> tuple[str, ...]:
    """Read stop sequences: a string or a list of strings."""
    stop = body.get(name)
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(entry, str) for entry in stops):
        raise RequestRefused(f"{name} must be a string or a list of strings", param=name)
    return tuple(entry for entry in stops if entry)


def read_messages(body: Json) -> Prompt:
    """Read ``messages``; the last one is what the model answers."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestRefused("messages is required: a list with at least one message", param="messages")
    texts = []
    for index, message in enumerate(messages):
        param = f"messages[{index}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RequestRefused(f"{param} must be an object with a role", param=param)
        texts.append(text.content_text(message.get("content"), f"{param}.content"))
    return Prompt(texts[-1], sum(map(text.count, texts)), tool_result=messages[-1]["role"] == "tool")
