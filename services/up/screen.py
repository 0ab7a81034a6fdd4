"""The start-up screen: from facts to text, 80 columns wide, every command on it fit to be pasted.

Only what cannot be broken (an id, a path) may be longer than a line.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from junctor import names
from junctor.config import DEFAULT_GRPC_PORT

WIDTH = 80
DEFAULT_URLS = ("http://127.0.0.1:8080", "http://localhost:8080")
"""Where the command line looks without a flag."""

_NO_CHAT = (
    *("embed", "rerank", "whisper", "tts", "transcribe", "audio", "speech", "realtime", "moderation", "guard"),
    *("dall-e", "image", "sora", "veo", "imagen", "babbage", "davinci", "turbo-instruct", "ocr", "aqa", "bge"),
)
"""Parts of model ids that answer no chat, as vendors name them."""


@dataclass(frozen=True)
class Facts:
    """What the screen tells."""

    url: str
    """Base URL of the edge, reachable from this machine, without ``/v1``."""
    grpc_target: str
    data_dir: str
    models: Sequence[str]
    """Routable ids, ``workspace/name``."""
    detected: Sequence[str] = ()
    """One line for each finding."""
    auth: bool = False
    """Callers need a token."""
    console: bool = False
    """The edge serves the page at ``/console``."""
    certificate: str = ""
    """File of the edge's certificate; empty: it speaks plain HTTP."""
    version: str = ""
    program: str = "junctor"
    """How the user's shell finds the command line."""


def program_name(found: str | None, running: Path, folder: Path) -> str:
    """Write ``junctor`` as the user has to type it in ``folder``.

    ``found`` is what a shell finds under that name, ``running`` the script that runs now. They differ when it was
    started from a virtual environment that is not active, as ``make up`` does.
    """
    if found is not None and Path(found).resolve() == running.resolve():
        return "junctor"
    script = running.absolute()
    return shlex.quote(str(script.relative_to(folder)) if script.is_relative_to(folder) else str(script))


def render(facts: Facts, *, colour: bool = False) -> str:
    """Write the screen; ``colour`` makes headings bold (leave it off unless it goes to a terminal)."""

    def heading(text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if colour else text

    model = best_model(facts.models)
    lines = [heading(f"junctor {facts.version}".strip() + f" is ready on {facts.url}"), ""]
    if model is None:
        lines += [*_wrapped(_NOTHING_YET, "  "), ""]
    else:
        lines += [heading("Try it") + f"   model {model}{_others(facts.models)}", "", *_calls(facts, model), ""]
    lines += [heading("Existing apps"), "", *_exports(facts), ""]
    if facts.detected:
        lines += [heading("Detected"), ""]
        lines += [line for found in facts.detected for line in _wrapped(found, "  ")]
        lines += [""]
    page = [f"  Look   {facts.url}/console"] if facts.console else []
    lines += [*page, f"  gRPC   {facts.grpc_target}", *_tls(facts)]
    lines += [f"  Data   {facts.data_dir}", "  Stop   Ctrl-C"]
    return "\n".join(lines) + "\n"


_NOTHING_YET = (
    "No chat model yet. Start with the demo provider (--demo), set a key such as OPENAI_API_KEY before the start, "
    "or register a provider."
)


def best_model(models: Sequence[str]) -> str | None:
    """Choose the model to show: the first that answers a chat and is no demo, else a demo, else None."""
    chat = [model for model in models if not any(part in names.split(model)[1] for part in _NO_CHAT)]
    real = [model for model in chat if not names.split(model)[1].startswith("demo-")]
    return next(iter([*real, *chat]), None)


def reachable_host(host: str) -> str:
    """Return where this machine reaches a server that listens on ``host``."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104


def reachable_url(host: str, port: int, *, scheme: str = "http") -> str:
    """Write the URL by which this machine reaches a server that listens on ``host``."""
    reach = reachable_host(host)
    bracketed = f"[{reach}]" if ":" in reach and not reach.startswith("[") else reach
    return f"{scheme}://{bracketed}:{port}"


def _tls(facts: Facts) -> Iterator[str]:
    if facts.certificate:
        yield f"  TLS    {facts.certificate}"
        yield "         with an authority of your own: export SSL_CERT_FILE=its-certificate.pem"


def _others(models: Sequence[str]) -> str:
    more = len(models) - 1
    return f" (and {more} more)" if more > 0 else ""


def _calls(facts: Facts, model: str) -> Iterator[str]:
    yield f"  curl {facts.url}/v1/chat/completions \\"
    yield "    -H 'content-type: application/json' \\"
    if facts.auth:
        yield '    -H "authorization: Bearer $JUNCTOR_ACCESS_TOKEN" \\'
    yield f'    -d \'{{"model": "{model}",'
    yield '         "messages": [{"role": "user", "content": "Hello"}]}\''
    yield ""
    workspace, name = names.split(model)
    short = name if workspace == "default" else model
    if facts.url in DEFAULT_URLS:
        yield f"  {facts.program} chat {short} 'Hello'"
    else:
        yield f"  {facts.program} chat {short} 'Hello' \\"
        yield f"    --base-url {facts.url}"
    if elsewhere := list(_elsewhere(facts)):
        yield from ("", *elsewhere)


def _elsewhere(facts: Facts) -> Iterator[str]:
    """Tell the command line what it would not guess, for all that follows in that shell."""
    if facts.url not in DEFAULT_URLS:
        yield f"  export JUNCTOR_BASE_URL={facts.url}"
    if not facts.grpc_target.endswith(f":{DEFAULT_GRPC_PORT}"):
        yield f"  export JUNCTOR_GRPC_TARGET={facts.grpc_target}"


def _exports(facts: Facts) -> Iterator[str]:
    key = '"$JUNCTOR_ACCESS_TOKEN"' if facts.auth else "not-needed"
    line = f"  export OPENAI_BASE_URL={facts.url}/v1 OPENAI_API_KEY={key}"
    if len(line) <= WIDTH:
        yield line
    else:
        yield f"  export OPENAI_BASE_URL={facts.url}/v1"
        yield f"  export OPENAI_API_KEY={key}"


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
