"""A conversation with one model: what was said, and asking the next question. Prints nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from junctor import names
from junctor.cli.failure import Failure
from junctor.client import Client
from junctor.streaming import Stream

PATH = "v1/chat/completions"


@dataclass
class Answer:
    """What has arrived so far."""

    content: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    model: str | None = None
    usage: Any = None
    finish: str | None = None
    provider: str = ""
    started: float = field(default_factory=time.monotonic)

    def take(self, chunk: Any) -> str:
        """Add one chunk or whole answer; returns its text. Raises Failure when it is neither."""
        if isinstance(chunk, bytes):
            raise Failure("the server's answer is not a chat completion")
        if not isinstance(chunk, dict):
            return ""
        self.model = chunk.get("model") or self.model
        self.usage = chunk.get("usage") or self.usage
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        self.finish = choice.get("finish_reason") or self.finish
        delta = choice.get("delta") or choice.get("message")
        said = delta if isinstance(delta, dict) else {}
        thought = said.get("reasoning_content") or said.get("reasoning")
        if isinstance(thought, str):
            self.thinking.append(thought)
        text = said.get("content")
        if not isinstance(text, str):
            return ""
        self.content.append(text)
        return text

    def as_json(self) -> str:
        """Write the whole answer as one JSON object."""
        whole = {
            "content": "".join(self.content),
            "thinking": "".join(self.thinking) or None,
            "model": self.model,
            "usage": self.usage,
        }
        return json.dumps(whole, ensure_ascii=False, indent=2)

    def summary(self, now: float) -> str:
        """Tell in one line who answered, how much and how long it took; ``now`` is a monotonic time."""
        usage = self.usage if isinstance(self.usage, dict) else {}
        spent = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
        tokens = f"{spent[0]} tokens in, {spent[1]} out" if all(isinstance(number, int) for number in spent) else ""
        who = f"{self.model or 'a model'}" + (f" at {self.provider}" if self.provider else "")
        return " · ".join(part for part in (who, tokens, f"{now - self.started:.1f} s") if part)


@dataclass
class Conversation:
    """``workspace`` and ``model`` as :func:`target` tells them; ``extra``: further keys of the body."""

    client: Client
    workspace: str
    model: str
    provider: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, str]] = field(default_factory=list)

    def ask(self, question: str) -> AbstractContextManager[Stream]:
        """Send the next question; leaving the block stops the model."""
        self.messages.append({"role": "user", "content": question})
        body = {"model": self.model, "messages": self.messages, "stream": True, **self.extra}
        routes = self.client.inference.gateway
        if self.provider:
            return routes.provider.stream(PATH, name=self.provider, body=body, workspace=self.workspace)
        return routes.openai.stream(PATH, body=body, workspace=self.workspace)

    def check(self) -> None:
        """Raise NoRoute for a name that leads nowhere: better than after the first question."""
        if not self.provider:
            self.client.inference.models.get(names.split(self.model)[1], workspace=self.workspace)

    def heard(self, answer: Answer) -> None:
        """Keep an answer, or what came of it; a question without any is taken back."""
        text = "".join(answer.content)
        if text:
            self.messages.append({"role": "assistant", "content": text})
        else:
            self.messages.pop()


def target(model: str, workspace: str, provider: str) -> tuple[str, str]:
    """Return the workspace to call and the ``model`` to send; with a provider the model id goes as it is."""
    if provider:
        return workspace, model
    named, name = names.split(model)
    return named or workspace, names.join(named or workspace, name)


def texts(stream: Stream, answer: Answer) -> Iterator[str]:
    """Iterate over the pieces of an answer's text, and collect it."""
    answer.provider = stream.headers.get("x-junctor-provider", "")
    for chunk in stream:
        if text := answer.take(chunk):
            yield text
