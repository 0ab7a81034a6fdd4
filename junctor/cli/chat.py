"""``junctor chat``: one question to one model, answered token by token."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import typer

from junctor import names, sse
from junctor.cli import http
from junctor.cli.failure import Failure
from junctor.cli.options import DEFAULT_BASE_URL, DEFAULT_WORKSPACE, AccessToken, BaseUrl, Workspace


class Format(StrEnum):
    """How the answer is printed."""

    TEXT = "text"
    JSON = "json"
    RAW = "raw"


@dataclass
class Answer:
    """What has arrived so far."""

    content: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    model: str | None = None
    usage: Any = None
    finish: str | None = None

    def take(self, chunk: dict[str, Any]) -> str:
        """Add one chunk or whole answer; returns its text."""
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
        thinking = "".join(self.thinking) or None
        whole = {
            "content": "".join(self.content),
            "thinking": thinking,
            "model": self.model,
            "usage": self.usage,
        }
        return json.dumps(whole, ensure_ascii=False, indent=2)


def command(  # noqa: PLR0913 - one parameter per flag
    model: Annotated[str, typer.Argument(help="Model, or workspace/model.")],
    prompt: Annotated[str | None, typer.Argument(help="Question; from standard input if left out.")] = None,
    *,
    provider: Annotated[
        str, typer.Option("--provider", help="Ask this provider; MODEL is its own id.", show_default=False)
    ] = "",
    system_message: Annotated[
        str, typer.Option("--system-message", "-s", help="How to answer.", show_default=False)
    ] = "",
    temperature: Annotated[float | None, typer.Option("--temperature", help="Randomness.", min=0)] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", help="Longest answer.", min=1)] = None,
    output: Annotated[
        Format, typer.Option("-f", "--format", help="text, json (whole answer) or raw (bytes as received).")
    ] = Format.TEXT,
    base_url: BaseUrl = DEFAULT_BASE_URL,
    workspace: Workspace = DEFAULT_WORKSPACE,
    access_token: AccessToken = "",
) -> None:
    """Ask a model; the answer is printed as it comes. Ctrl-C stops the model as well."""
    path, name = target(model, workspace, provider)
    body: dict[str, Any] = {"model": name, "messages": [], "stream": True}
    if system_message:
        body["messages"].append({"role": "system", "content": system_message})
    body["messages"].append({"role": "user", "content": read_prompt(prompt)})
    optional = {"temperature": temperature, "max_tokens": max_tokens}
    body |= {key: value for key, value in optional.items() if value is not None}
    if output is Format.JSON:
        body["stream_options"] = {"include_usage": True}
    with http.connect(base_url, access_token) as client, client.stream("POST", path, json=body) as response:
        http.check(response)
        _print(response, output)


def target(model: str, workspace: str, provider: str) -> tuple[str, str]:
    """Return the path to call and the ``model`` to send; with a provider the model id goes as it is."""
    if not provider:
        named, model = names.split(model)
        workspace = named or workspace
    base = f"apis/inference-gateway/v2/workspaces/{quote(workspace, safe='')}"
    if provider:
        return f"{base}/provider/{quote(provider, safe='')}/-/v1/chat/completions", model
    return f"{base}/openai/-/v1/chat/completions", names.join(workspace, model)


def read_prompt(prompt: str | None) -> str:
    """Return the question; ``-`` or none means standard input, unless that is a terminal."""
    if prompt == "-" or (prompt is None and not sys.stdin.isatty()):
        prompt = sys.stdin.read()
    if not (prompt or "").strip():
        raise typer.BadParameter("no question: give PROMPT, or pipe it in", param_hint="PROMPT")
    return prompt or ""


def _print(response: httpx.Response, output: Format) -> None:
    answer = Answer()
    received = response.iter_bytes()
    try:
        for chunk in _chunks(response, _copied(received) if output is Format.RAW else received):
            text = answer.take(chunk)
            if output is Format.TEXT and text:
                typer.echo(_printable(text), nl=False)
    finally:
        if output is Format.TEXT and answer.content:
            typer.echo()
    if output is Format.JSON:
        typer.echo(answer.as_json())
    elif answer.finish == "length":
        typer.echo("junctor: the answer was cut at the token limit", err=True)


def _copied(blocks: Iterator[bytes]) -> Iterator[bytes]:
    for block in blocks:
        sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()
        yield block


def _chunks(response: httpx.Response, received: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    if not response.headers.get("content-type", "").startswith("text/event-stream"):
        yield _decode(b"".join(received).decode("utf-8", "replace"))
        return
    for event in sse.events(received):
        if event.data == "[DONE]":
            continue
        chunk = _decode(event.data)
        if event.name == "error" or "error" in chunk:
            raise Failure(http.error_text(chunk) or "the answer broke off")
        if not event.name:
            yield chunk


def _decode(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise Failure("the server's answer is not a chat completion") from None
    return value if isinstance(value, dict) else {}


def _printable(text: str) -> str:
    """Leave out control characters on a terminal: a model must not move the cursor or set the title."""
    if not sys.stdout.isatty():
        return text
    return "".join(letter for letter in text if letter in "\n\t" or letter.isprintable())
