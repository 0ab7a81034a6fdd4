"""``junctor chat``: one question to one model, or a conversation, answered token by token."""

from __future__ import annotations

import contextlib
import sys
import time
from enum import StrEnum
from typing import Annotated, Any

import typer

from junctor.cli import root_flags
from junctor.cli.conversation import Answer, Conversation, target, texts
from junctor.cli.failure import Failure
from junctor.cli.options import AccessToken, BaseUrl, Output, Workspace
from junctor.cli.output import coloured
from junctor.cli.session import opened, reported
from junctor.sse import Decoder, ServerEvent
from junctor.streaming import DONE, Stream

LEAVE = "Ctrl-D or /exit leaves, /clear forgets what was said"


class Format(StrEnum):
    """How the answer is printed."""

    TEXT = "text"
    JSON = "json"
    RAW = "raw"


def command(  # noqa: PLR0913 - one parameter per flag
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model, or workspace/model.")],
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="Question; from standard input if left out.")
    ] = None,
    *,
    provider: Annotated[
        str, typer.Option("--provider", help="Ask this provider; MODEL is its own id.", show_default=False)
    ] = "",
    system_message: Annotated[
        str, typer.Option("--system-message", "-s", help="How to answer.", show_default=False)
    ] = "",
    temperature: Annotated[float | None, typer.Option("--temperature", help="Randomness.", min=0)] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", help="Longest answer.", min=1)] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Go on asking; at a terminal also without PROMPT.")
    ] = False,
    output: Annotated[
        Format,
        typer.Option("-f", "--format", "--output-format", help="text, json (whole answer) or raw (bytes as received)."),
    ] = Format.TEXT,
    base_url: BaseUrl = "",
    workspace: Workspace = "",
    access_token: AccessToken = "",
) -> None:
    """Ask a model; the answer is printed as it comes. Ctrl-C stops the model as well.

    \b
    Examples:
      junctor chat demo-echo-1 'Hello'
      junctor chat demo-echo-1                  a conversation, at a terminal
      git diff | junctor chat coder -s 'Review this'
      junctor chat gpt-4.1 'Hi' --provider oai -f json
    """
    settings: dict[str, Any] = {"base_url": base_url, "workspace": workspace, "access_token": access_token}
    settings = root_flags.settled(context, settings)
    if output is Format.TEXT and root_flags.of(context).output is Output.JSON:
        output = Format.JSON
    with reported("junctor chat"), opened(**settings) as client:
        at, name = target(model, client.settings.workspace, provider)
        optional: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
        extra = {key: value for key, value in optional.items() if value is not None}
        if output is Format.JSON or _told():
            extra["stream_options"] = {"include_usage": True}
        conversation = Conversation(client, at, name, provider, extra)
        if system_message:
            conversation.messages.append({"role": "system", "content": system_message})
        if interactive or (prompt is None and sys.stdin.isatty() and output is Format.TEXT):
            _converse(conversation, prompt)
        else:
            _once(conversation, read_prompt(prompt), output)


def read_prompt(prompt: str | None) -> str:
    """Return the question; ``-`` or none means standard input, unless that is a terminal."""
    if prompt == "-" or (prompt is None and not sys.stdin.isatty()):
        prompt = sys.stdin.read()
    if not (prompt or "").strip():
        raise typer.BadParameter("no question: give PROMPT, or pipe it in", param_hint="PROMPT")
    return prompt or ""


def _once(conversation: Conversation, question: str, output: Format) -> None:
    answer = Answer()
    with conversation.ask(question) as stream:
        if output is Format.RAW:
            _copy(stream)
            return
        _print(stream, answer, shown=output is Format.TEXT)
    if output is Format.JSON:
        typer.echo(answer.as_json())
    else:
        _tell(answer)


def _converse(conversation: Conversation, first: str | None) -> None:
    """Ask and answer until the end of input. Ctrl-C stops the answer; with no answer under way it is a hint."""
    if sys.stdin.isatty():
        conversation.check()
        with contextlib.suppress(ImportError):  # some builds of Python are without
            import readline  # noqa: F401 - gives input() a history and editing

        typer.echo(f"{conversation.model} — {LEAVE}", err=True)
    kept = len(conversation.messages)
    while (question := _next(first)) is not None:
        first = None
        if question == "/clear":
            del conversation.messages[kept:]
        elif question:
            _turn(conversation, question)


def _next(first: str | None) -> str | None:
    """Return the next question, empty for none this time, None at the end."""
    if first:
        return first
    try:
        question = input("› " if sys.stdin.isatty() else "").strip()
    except EOFError:
        if sys.stdin.isatty():
            typer.echo(err=True)  # the shell's prompt goes on a line of its own
        return None
    except KeyboardInterrupt:
        typer.echo(f"\n{LEAVE}", err=True)
        return ""
    return None if question in ("/exit", "/quit") else question


def _turn(conversation: Conversation, question: str) -> None:
    answer = Answer()
    try:
        with reported("junctor chat"), conversation.ask(question) as stream:
            _print(stream, answer, shown=True)
        _tell(answer)
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
    except Failure as failure:
        typer.echo(f"junctor: {failure}", err=True)
    conversation.heard(answer)


def _print(stream: Stream, answer: Answer, *, shown: bool) -> None:
    try:
        for text in texts(stream, answer):
            if shown:
                typer.echo(_printable(text), nl=False)
    finally:
        if shown and answer.content:
            typer.echo()


def _tell(answer: Answer) -> None:
    if answer.finish == "length":
        typer.echo("junctor: the answer was cut at the token limit", err=True)
    if _told():
        typer.secho(answer.summary(time.monotonic()), err=True, dim=True, color=coloured())


def _told() -> bool:
    """Tell whether somebody watches: then who answered, tokens and time are shown."""
    return sys.stdout.isatty() and sys.stderr.isatty()


def _copy(stream: Stream) -> None:
    decoder, broken = Decoder(), False
    for block in stream.iter_bytes():
        sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()
        broken = broken or any(_is_error(event) for event in decoder.feed(block))
    if broken and stream.is_events:
        raise Failure("the answer broke off")


def _is_error(event: ServerEvent) -> bool:
    return event.name == "error" and event.data != DONE


def _printable(text: str) -> str:
    """Leave out control characters on a terminal: a model must not move the cursor or set the title."""
    if not sys.stdout.isatty():
        return text
    return "".join(letter for letter in text if letter in "\n\t" or letter.isprintable())
