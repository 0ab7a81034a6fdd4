"""What the edge itself sees of inference requests: how long they took for the caller, what was said, who left early.

Also the first span of a trace. Costs half a microsecond a request, nothing per event; all labels are fixed words.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterable
from time import perf_counter

from services.runtime.exchange import Call, Route
from services.runtime.histograms import HTTP_SECONDS, Histogram
from services.runtime.metrics import Family, Sample, gauge
from services.runtime.tracing import SERVER, Attributes, Trace, Tracer

ROUTES = {
    Route.OPENAI: "/apis/inference-gateway/v2/workspaces/{workspace}/openai/-/{path}",
    Route.MODEL: "/apis/inference-gateway/v2/workspaces/{workspace}/model/{name}/-/{path}",
    Route.PROVIDER: "/apis/inference-gateway/v2/workspaces/{workspace}/provider/{name}/-/{path}",
    Route.PLAIN: "/v1/{path}",
}
"""The inference routes as the HTTP contract writes them."""
GONE = "client_gone"
"""Error of a request whose caller left before its answer was whole."""

_log = logging.getLogger("services.requests")

_Key = tuple[Route, str, int, bool]


class Ends:
    """One for each server."""

    def __init__(self) -> None:
        self.tracer: Tracer | None = None
        """None: nothing is traced."""
        self.running = 0
        self._seconds: dict[_Key, Histogram] = {}

    def begin(self, call: Call) -> Trace | None:
        """Note that a request, received whole, is about to be served."""
        self.running += 1
        return None if self.tracer is None else self.tracer.begin(call)

    def end(self, call: Call, trace: Trace | None, *, started: float, status: int, gone: bool) -> None:
        """Note its end. ``started`` is of perf_counter; ``status`` what was answered, 0: nothing."""
        self.running -= 1
        key = (call.route, call.method, status, gone)
        histogram = self._seconds.get(key)
        if histogram is None:
            histogram = self._seconds[key] = Histogram(HTTP_SECONDS)
        seconds = perf_counter() - started
        histogram.counts[bisect_left(HTTP_SECONDS, seconds)] += 1
        histogram.total += seconds
        if trace is not None and self.tracer is not None:
            self._end_span(self.tracer, call, trace, status, gone=gone)

    def unreached(self, call: Call) -> None:
        """Write the line of a request that no router can write one for: none was reached."""
        extra = {"request_id": call.request_id, "route": call.route.value, "workspace": call.workspace}
        _log.warning("request", extra={**extra, "verdict": "failed", "error": "peer_unavailable"})

    def _end_span(self, tracer: Tracer, call: Call, trace: Trace, status: int, *, gone: bool) -> None:
        attributes: Attributes = {
            "http.request.method": call.method,
            "http.route": ROUTES[call.route],
            "junctor.request.id": call.request_id,
        }
        if status:
            attributes["http.response.status_code"] = status
        error = GONE if gone else str(status) if status >= 500 else ""
        tracer.end(trace, f"{call.method} {ROUTES[call.route]}", SERVER, attributes, error=error)

    def families(self) -> Iterable[Family]:
        """Return what was counted, in OpenTelemetry's words for HTTP servers."""
        samples: list[Sample] = []
        for (route, method, status, gone), histogram in self._seconds.items():
            labels = {"http_request_method": method, "http_route": ROUTES[route]}
            labels["http_response_status_code"] = str(status) if status else ""
            labels["error_type"] = GONE if gone else ""
            samples += histogram.samples(labels)
        text = "Inference requests at the edge, from the last byte of the request to the last of the answer."
        yield Family("http_server_request_duration_seconds", "histogram", text, tuple(samples))
        yield gauge("http_server_active_requests", "Inference requests at the edge now.", self.running)
