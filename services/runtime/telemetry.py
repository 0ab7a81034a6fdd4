"""Logging of a server process: one line a record, text on a terminal, JSON objects elsewhere.

Nothing should log a credential in the first place. The last defence is here: every line passes a
:class:`Redactor`, which replaces what looks like one and every value that was registered as secret.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from services.runtime.auth import Secret

REDACTED: Final = "[redacted]"
MIN_SECRET_LENGTH: Final = 6
"""Shorter values are not searched for: they would blank ordinary words."""
LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("auto", "text", "json")

_QUIET: Final = (
    "uvicorn",
    "uvicorn.error",
    "uvicorn.access",
    "grpc",
    "alembic",
    "sqlalchemy",
    "asyncio",
    "httpx",
    "httpcore",
)
"""Libraries that are heard from WARNING on, by our handler alone."""

_SECRET_KEY: Final = re.compile(
    r"(?:^|[_\-.])(?:authorization|cookie|password|passwd|credentials?|secret|token|api[_\-]?key|private[_\-]?key|key[_\-]?material)$"
    r"|apikey$",
    re.IGNORECASE,
)
_SECRET_TEXT: Final = (
    # Whatever follows a scheme of HTTP authentication.
    (re.compile(r"\b(Bearer|Basic|Digest)\s+[A-Za-z0-9._~+/=\-]{6,}", re.IGNORECASE), rf"\1 {REDACTED}"),
    # key=value, key: value and "key": "value", for keys that name a credential.
    (
        re.compile(
            r"(?P<key>(?:[\w\-]*[_\-])?(?:authorization|cookie|password|passwd|secret|token|api[_\-]?key)[\"']?\s*[:=]\s*)"
            r"(?P<value>\"[^\"]*\"|'[^']*'|[^\s\"',;&)\]}]+)",
            re.IGNORECASE,
        ),
        rf"\g<key>{REDACTED}",
    ),
    # user:password@ of a URL.
    (re.compile(r"(://[^/\s:@]+):[^/\s@]+@"), rf"\1:{REDACTED}@"),
    # Keys by the prefixes that vendors give them.
    (re.compile(r"\b(?:sk|rk|pk|gsk|nvapi|hf|ghp|xox[abp])[-_][A-Za-z0-9_\-]{8,}|\bAIza[A-Za-z0-9_\-]{20,}"), REDACTED),
)

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Redactor:
    """Replaces credentials in what is about to be written."""

    def __init__(self) -> None:
        self._values: set[str] = set()

    def register(self, secret: Secret) -> None:
        """Replace this value wherever it turns up."""
        if len(secret.reveal()) >= MIN_SECRET_LENGTH:
            self._values.add(secret.reveal())

    def text(self, text: str) -> str:
        """Return ``text`` without registered values and without what looks like a credential."""
        for value in self._values:
            text = text.replace(value, REDACTED)
        for pattern, replacement in _SECRET_TEXT:
            text = pattern.sub(replacement, text)
        return text

    def field(self, key: str, value: Any) -> Any:
        """Return the value of an extra as it may be written: by the look of its key, then of its text."""
        if _SECRET_KEY.search(key):
            return REDACTED
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, dict):
            return {str(name): self.field(str(name), item) for name, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.field("", item) for item in value]
        return self.text(str(value))


def redactor_of(secrets: Iterable[Secret]) -> Redactor:
    """Return a redactor that knows these values."""
    redactor = Redactor()
    for secret in secrets:
        redactor.register(secret)
    return redactor


class LineFormatter(logging.Formatter):
    """What text and JSON have in common: the parts of a record, redacted."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self.redactor = redactor

    def parts(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return ts, level, logger, message, the extras and ``exception``."""
        ts = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        found: dict[str, Any] = {
            "ts": ts.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.redactor.text(record.getMessage()),
        }
        for key, value in vars(record).items():
            if key not in _STANDARD and key not in found:
                found[key] = self.redactor.field(key, value)
        exception = self.formatException(record.exc_info) if record.exc_info else record.exc_text
        if exception:
            found["exception"] = self.redactor.text(exception)
        return found


class JsonFormatter(LineFormatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        return json.dumps(self.parts(record), ensure_ascii=False, default=str)


class TextFormatter(LineFormatter):
    """For people: time, level, message, extras as ``key=value``; a traceback on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line (or lines), without the last end."""
        parts = self.parts(record)
        exception = parts.pop("exception", None)
        ts, level, name, message = (parts.pop(key) for key in ("ts", "level", "logger", "message"))
        # A line end in a message must not look like another record.
        shown = message.replace("\r", "\\r").replace("\n", "\\n")
        extras = "".join(f" {key}={_quoted(value)}" for key, value in parts.items())
        line = f"{ts} {level:<7} {name.removeprefix('services.')}: {shown}{extras}"
        return f"{line}\n{exception}" if exception else line


def _quoted(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return json.dumps(text, ensure_ascii=False) if isinstance(value, str) and re.search(r"[\s\"=]", text) else text


def configure(*, level: str = "info", form: str = "auto", stream: TextIO | None = None) -> Redactor:
    """Set up logging for the whole process; call it once, first thing in ``main``. Returns where to register secrets.

    ``level`` is one of LEVELS, ``form`` one of FORMATS (``auto``: text on a terminal). ``stream`` is stderr.
    """
    out = stream or sys.stderr
    redactor = Redactor()
    as_text = form == "text" or (form == "auto" and out.isatty())
    handler = logging.StreamHandler(out)
    handler.setFormatter(TextFormatter(redactor) if as_text else JsonFormatter(redactor))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(max(logging.WARNING, root.level))
    logging.getLogger("grpc._cython.cygrpc").addFilter(_shows_no_bytes)
    return redactor


def _shows_no_bytes(record: logging.LogRecord) -> bool:
    """Metadata that are no UTF-8 would be written out in full by grpc, at the level of errors: keys and all."""
    return not str(record.msg).startswith("Invalid encoding")
