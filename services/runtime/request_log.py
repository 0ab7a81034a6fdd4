"""One line for each inference request: a hook of :mod:`services.runtime.finished`, off :mod:`logging`'s slow way.

A line costs 4 µs, waits in memory, and is written by a thread with those of its
moment. Nothing in it is a caller's text but request id and tags, which are redacted. Requests that went well may be
sampled; the others are always written.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from services.runtime.finished import CALLER, Finished
from services.runtime.metrics import Family, Sample
from services.runtime.telemetry import JsonFormatter, LineFormatter, Redactor
from services.runtime.tracing import Trace, error_type

WAIT_SECONDS: Final = 0.2
"""How long a line waits for others."""
MOST: Final = 20_000
"""Lines that may wait; more are dropped, and counted."""
_PLAIN: Final = re.compile(r"(?:req-)?[0-9a-f-]{1,80}").fullmatch
"""Request ids as junctor makes them."""
_MIX: Final = 0x9E3779B1


class Line(msgspec.Struct, omit_defaults=True):
    """What is written; times in milliseconds."""

    ts: str
    level: str
    logger: str
    message: str
    request_id: str
    route: str
    kind: str
    workspace: str
    verdict: str
    ms: float
    status: int = 0
    """Of the provider's answer."""
    model: str = ""
    provider: str = ""
    upstream_model: str = ""
    error: str = ""
    error_source: str = ""
    attempts: int = 1
    stream: bool = False
    first_byte_ms: float | None = None
    upstream_ms: float = 0.0
    queue_ms: float = 0.0
    input_tokens: int | None = None
    output_tokens: int | None = None
    caller: str = ""
    trace_id: str = ""
    tags: Mapping[str, str] | None = None


class RequestLog:
    """The lines of one process. Belongs to one event loop; :meth:`stop` writes what waits."""

    def __init__(self, handler: logging.StreamHandler[Any], *, sample: float = 1.0) -> None:
        """``handler`` is the process's own, ``sample`` the share of requests that went well, 0 to 1."""
        formatter = handler.formatter
        self._redactor = formatter.redactor if isinstance(formatter, LineFormatter) else Redactor()
        self._encode = _json if isinstance(formatter, JsonFormatter) else _text
        self._handler = handler
        self._below = round(sample * 2**32)
        self._least = logging.getLogger("services.requests").getEffectiveLevel()
        self._lines: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._second = 0
        self._prefix = ""
        self.dropped = 0

    def __call__(self, finished: Finished) -> None:
        """Write down one call."""
        call = finished.call
        source = finished.source
        if self._least > (logging.WARNING if source and source != CALLER else logging.INFO):
            return
        if not source and zlib.crc32(call.request_id.encode()) * _MIX % 2**32 >= self._below:
            return
        if len(self._lines) >= MOST:
            self.dropped += 1
            return
        self._lines.append(self._encode(self._line(finished)))
        if self._timer is None and self._writing is None:
            self._timer = asyncio.get_running_loop().call_later(WAIT_SECONDS, self._write)

    def _line(self, finished: Finished) -> Line:
        call = finished.call
        usage = finished.usage
        source = finished.source
        first = finished.first_byte_seconds
        request_id = call.request_id
        principal = call.principal
        trace = finished.trace
        return Line(
            self._now(),
            "warning" if source and source != CALLER else "info",
            "services.requests",
            "request",
            request_id if _PLAIN(request_id) else self._redactor.text(request_id),
            call.route.value,
            finished.kind,
            call.workspace,
            finished.verdict,
            _milliseconds(finished.total_seconds),
            finished.status,
            finished.virtual_model,
            finished.provider,
            finished.upstream_model,
            error_type(finished) if source else "",
            source,
            len(finished.attempts),
            finished.streams,
            None if first is None else _milliseconds(first),
            _milliseconds(finished.upstream_seconds),
            _milliseconds(finished.queue_seconds) if finished.queue_seconds else 0.0,
            None if usage is None else usage.input_tokens,
            None if usage is None else usage.output_tokens,
            "" if principal is None else getattr(principal, "principal", ""),
            trace.trace_id if isinstance(trace, Trace) else "",
            None if not call.tags else {name: self._redactor.field(name, value) for name, value in call.tags},
        )

    async def stop(self) -> None:
        """Write what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            await self._writing
        await self._write_out()

    def families(self) -> Iterable[Family]:
        """Tell how many lines were lost."""
        text = "Lines of requests that were dropped, as whoever reads the log is too slow."
        yield Family("junctor_log_lines_dropped_total", "counter", text, (Sample(self.dropped),))

    def _now(self) -> str:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._prefix}.{int((now - second) * 1000):03d}Z"

    def _write(self) -> None:
        self._timer = None
        self._writing = asyncio.get_running_loop().create_task(self._write_out())

    async def _write_out(self) -> None:
        try:
            while self._lines:
                lines, self._lines = self._lines, []
                await asyncio.to_thread(self._put, b"\n".join(lines).decode() + "\n")
        finally:
            self._writing = None

    def _put(self, text: str) -> None:
        handler = self._handler
        handler.acquire()  # lines of others must not come in between
        try:
            handler.stream.write(text)
            handler.flush()
        except (OSError, ValueError):  # nobody reads, or the stream is closed: as logging does, in silence
            pass
        finally:
            handler.release()


def _milliseconds(seconds: float) -> float:
    return int(seconds * 1e5) / 100  # round() takes three times as long


_json = msgspec.json.Encoder().encode


def _text(line: Line) -> bytes:
    """For people: as :class:`services.runtime.telemetry.TextFormatter` writes."""
    shown = [f"{line.ts} {line.level:<7} requests: request"]
    for name in Line.__struct_fields__[4:]:
        value = getattr(line, name)
        if value not in ("", None, 0.0, False):
            shown.append(f"{name}={value}")
    return " ".join(shown).encode()
