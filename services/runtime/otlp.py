"""Sends spans to a collector: OTLP over gRPC or HTTP, in batches, off the event loop where it costs.

What does not fit into the queue is dropped and counted; nothing here ever delays or fails a request. The messages'
package, ``opentelemetry-proto``, is imported when the first exporter is made.
"""

from __future__ import annotations

import asyncio
import http.client
import logging
import ssl
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import grpc

from services.runtime.collector import Collector
from services.runtime.metrics import Family, Sample
from services.runtime.tracing import Span
from services.runtime.trouble import Trouble

QUEUE: Final = 4096
"""Spans that may wait."""
BATCH: Final = 512
"""Spans of one message."""
GATHER_SECONDS: Final = 1.0
"""How long a span waits for others."""
SEND_SECONDS: Final = 10.0
"""How long a collector may take."""
TRIES: Final = 5
"""For a collector that is away or busy; the waits between them double, from 0.5 s."""
_BUSY: Final = frozenset((429, 502, 503, 504))
_BUSY_CODES: Final = frozenset(
    (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
    )
)

_log = logging.getLogger(__name__)


class Unsent(OSError):
    """A batch was not taken; ``again``: it may be, later."""

    def __init__(self, why: str, *, again: bool) -> None:
        super().__init__(why)
        self.again = again


class OtlpExporter:
    """A queue of spans and the task that empties it. ``export`` is called on the event loop."""

    def __init__(self, collector: Collector, resource: Mapping[str, str], *, gather: float = GATHER_SECONDS) -> None:
        """``resource`` describes this process (``service.name`` and so on)."""
        self._send = _Grpc(collector) if collector.over_grpc else _Http(collector)
        self._resource = dict(resource)
        self._gather = gather
        self._queue: list[Span] = []
        self._full = asyncio.Event()
        self._counts = {"sent": 0, "dropped": 0, "refused": 0}
        self._trouble = Trouble(_log, "the traces' collector takes no spans")

    def export(self, span: Span) -> None:
        """Queue one span; dropped when too many wait."""
        if len(self._queue) >= QUEUE:
            self._counts["dropped"] += 1
            return
        self._queue.append(span)
        if len(self._queue) == BATCH:
            self._full.set()

    async def run(self) -> None:
        """Send what comes, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._gather):
                    await self._full.wait()
            except TimeoutError:
                pass
            self._full.clear()
            while self._queue:
                await self._send_some()

    async def stop(self) -> None:
        """Send what is left, once, and close. Call after :meth:`run` has ended."""
        while self._queue:
            await self._send_some(tries=1)
        await self._send.close()

    def families(self) -> Iterable[Family]:
        """Tell what became of the spans."""
        samples = tuple(Sample(count, {"result": result}) for result, count in self._counts.items())
        yield Family("junctor_spans_total", "counter", "Spans of traces, by what became of them.", samples)

    async def _send_some(self, *, tries: int = TRIES) -> None:
        batch, self._queue = self._queue[:BATCH], self._queue[BATCH:]
        message = await asyncio.to_thread(encode, batch, self._resource)
        wait = 0.5
        for left in reversed(range(tries)):
            try:
                async with asyncio.timeout(SEND_SECONDS + 1):
                    await self._send(message)
            except OSError as error:  # TimeoutError is one
                self._trouble.failed(error)
                if not left or (isinstance(error, Unsent) and not error.again):
                    self._counts["refused"] += len(batch)
                    return
            else:
                self._trouble.over()
                self._counts["sent"] += len(batch)
                return
            await asyncio.sleep(wait)
            wait *= 2


class _Grpc:
    def __init__(self, collector: Collector) -> None:
        parts = urlsplit(collector.endpoint)
        target = parts.netloc
        if parts.scheme == "https":
            self._channel = grpc.aio.secure_channel(target, grpc.ssl_channel_credentials())
        else:
            self._channel = grpc.aio.insecure_channel(target)
        self._metadata = tuple((name.lower(), value.reveal()) for name, value in collector.headers.items())
        self._export: Any = self._channel.unary_unary(
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            request_serializer=bytes,
            response_deserializer=bytes,
        )

    async def __call__(self, message: bytes) -> None:
        try:
            await self._export(message, timeout=SEND_SECONDS, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise Unsent(error.code().name, again=error.code() in _BUSY_CODES) from error

    async def close(self) -> None:
        await self._channel.close()


class _Http:
    """One connection a batch, in a thread: batches are rare, and the loop's own clients are for providers."""

    def __init__(self, collector: Collector) -> None:
        self._parts = urlsplit(collector.endpoint)
        self._path = self._parts.path.rstrip("/") or ""
        if not self._path.endswith("/v1/traces"):
            self._path += "/v1/traces"
        self._headers = {name: value.reveal() for name, value in collector.headers.items()}

    async def __call__(self, message: bytes) -> None:
        status = await asyncio.to_thread(self._post, message)
        if not 200 <= status < 300:
            raise Unsent(f"HTTP status {status}", again=status in _BUSY)

    def _post(self, message: bytes) -> int:
        host = self._parts.hostname or ""
        connection = http.client.HTTPConnection(host, self._parts.port, timeout=SEND_SECONDS)
        if self._parts.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(host, self._parts.port, timeout=SEND_SECONDS, context=context)
        try:
            connection.request("POST", self._path, message, {**self._headers, "content-type": "application/x-protobuf"})
            answer = connection.getresponse()
            answer.read(64 * 1024)
        except http.client.HTTPException as error:
            raise Unsent(f"no HTTP ({type(error).__name__})", again=True) from error
        finally:
            connection.close()
        return answer.status

    async def close(self) -> None:
        pass


def encode(spans: Sequence[Span], resource: Mapping[str, str]) -> bytes:
    """Write spans as an ``ExportTraceServiceRequest``."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.trace.v1.trace_pb2 import Status

    request = ExportTraceServiceRequest()
    within = request.resource_spans.add()
    _add(within.resource.attributes, resource)
    scope = within.scope_spans.add()
    scope.scope.name = "junctor"
    for span in spans:
        message = scope.spans.add(
            trace_id=bytes.fromhex(span.trace_id),
            span_id=bytes.fromhex(span.span_id),
            parent_span_id=bytes.fromhex(span.parent_id),
            trace_state=span.state,
            name=span.name,
            kind=span.kind,
            start_time_unix_nano=span.start,
            end_time_unix_nano=max(span.start, span.end),
        )
        _add(message.attributes, span.attributes)
        if span.error:
            _add(message.attributes, {"error.type": span.error})
            message.status.code = Status.STATUS_CODE_ERROR
    return request.SerializeToString()


def _add(attributes: Any, given: Mapping[str, str | int | float | bool]) -> None:
    for name, value in given.items():
        held = attributes.add(key=name).value
        if isinstance(value, bool):
            held.bool_value = value
        elif isinstance(value, int):
            held.int_value = value
        elif isinstance(value, float):
            held.double_value = value
        else:
            held.string_value = value
