"""Metrics of inference requests: a hook of :mod:`services.runtime.finished`, and the families it counted.

Names and units are those of OpenTelemetry's conventions for GenAI, as its Prometheus exporters spell them; the rest
begins with ``junctor_``. No label has a caller's text: names are the catalog's, all else is a fixed word or a status.
At most :data:`MOST` combinations are kept; further ones count as ``other``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final

from services.runtime.exchange import Route
from services.runtime.finished import KINDS, Finished
from services.runtime.histograms import FIRST_TOKEN, OUTPUT_TOKEN, OWN_SECONDS, SECONDS, TOKENS, Histogram
from services.runtime.metrics import Family, Sample

MOST: Final = 1000
"""Combinations of labels; one costs about 1 kB."""
MOST_SERIES: Final = 200
"""Kinds of calls, providers and models that have histograms: 17 kB of a scrape each, and 0.15 ms of the event loop."""
OTHER: Final = "other"

_PATIENCE: Final = 1024
"""Calls for which there was no room between two looks for some."""
_OPERATIONS: Final = {"completion": "text_completion"}
"""Kinds that the conventions have another word for."""

_Key = tuple[Route, str, str, str, str, str, str, int, str]
_Place = tuple[str, str, str, str]
"""Kind of call, provider, virtual model, upstream's name of the model."""


class _Series:
    """What is counted of calls of one kind to one provider for one model."""

    __slots__ = ("cached", "failed", "first", "input", "output", "per_token", "reasoning", "seconds")

    def __init__(self) -> None:
        self.seconds = Histogram(SECONDS)
        """Of calls that ended well."""
        self.failed: dict[str, Histogram] = {}
        """Of the others, by their error."""
        self.first = Histogram(FIRST_TOKEN)
        self.per_token = Histogram(OUTPUT_TOKEN)
        self.input = Histogram(TOKENS)
        self.output = Histogram(TOKENS)
        self.cached = 0
        self.reasoning = 0


class _Entry:
    """One combination of labels: how often it came, and the series it belongs to."""

    __slots__ = ("clean", "count", "seconds", "series")

    def __init__(self, series: _Series, seconds: Histogram) -> None:
        self.count = 0
        self.clean = 0
        """Of these, how many took one attempt, which went well."""
        self.series = series
        self.seconds = seconds


class InferenceMetrics:
    """Counts. The object is the hook; :meth:`families` is the collector."""

    def __init__(self, known: Callable[[], Collection[str]] = tuple, *, most: int = MOST) -> None:
        """``known`` gives the providers of the catalog (``workspace/name``): of others nothing has to be kept."""
        self._known = known
        self._most = most
        self._entries: dict[_Key, _Entry] = {}
        self._series: dict[_Place, _Series] = {}
        self._attempts: dict[tuple[str, str], int] = {}
        self._overflows = 0
        self._own = Histogram(OWN_SECONDS)
        self._waits: dict[str, Histogram] = {}
        self._connects: dict[str, Histogram] = {}

    def __call__(self, finished: Finished) -> None:
        """Count one call. About 2 µs."""
        call = finished.call
        error = finished.error
        provider = finished.provider
        key = (
            call.route,
            KINDS.get(call.path, "other"),
            provider,
            finished.virtual_model,
            finished.upstream_model,
            finished.verdict,
            finished.source,
            finished.status,
            "" if error is None else error.reason,
        )
        entry = self._entries.get(key) or self._enter(key)
        entry.count += 1
        attempts = finished.attempts
        if len(attempts) == 1 and not attempts[0].failure:
            entry.clean += 1
        elif attempts:
            self._count_attempts(finished)
        total = finished.total_seconds
        histogram = entry.seconds
        histogram.counts[bisect_left(SECONDS, total)] += 1
        histogram.total += total
        own = total - finished.upstream_seconds - finished.queue_seconds
        histogram = self._own
        histogram.counts[bisect_left(OWN_SECONDS, own)] += 1
        histogram.total += own if own > 0.0 else 0.0
        if finished.usage is not None:
            _count_tokens(entry.series, finished)
        if finished.streams and finished.first_byte_seconds is not None and not finished.source:
            _count_stream(entry.series, finished)
        if finished.queue_seconds:
            self._observe(self._waits, provider, finished.queue_seconds)
        if finished.connect_seconds:
            self._observe(self._connects, provider, finished.connect_seconds)

    def _enter(self, key: _Key) -> _Entry:
        if len(self._entries) >= self._most:
            self._make_room()
        if len(self._entries) >= self._most:
            route, kind, _, _, _, verdict, source, status, reason = key
            key = (route, kind, OTHER, OTHER, OTHER, verdict, source, status, reason)
            if (entry := self._entries.get(key)) is not None:
                return entry
        _, kind, provider, virtual_model, upstream_model, verdict, source, status, reason = key
        place = (kind, provider, virtual_model, upstream_model)
        if place not in self._series and len(self._series) >= min(self._most, MOST_SERIES):
            self._make_room()
            if len(self._series) >= min(self._most, MOST_SERIES):
                place = (kind, OTHER, OTHER, OTHER)
        series = self._series.get(place)
        if series is None:
            series = self._series[place] = _Series()
        seconds = series.seconds
        if source:
            seconds = series.failed.setdefault(_error_type(verdict, status, reason), Histogram(SECONDS))
        entry = self._entries[key] = _Entry(series, seconds)
        return entry

    def _make_room(self) -> None:
        """Drop what belongs to providers that are gone; after a time in vain only now and then, as it takes long."""
        self._overflows += 1
        if self._overflows % _PATIENCE != 1:
            return
        before = len(self._entries) + len(self._series)
        known = {*self._known(), OTHER, ""}
        self._entries = {key: entry for key, entry in self._entries.items() if key[2] in known}
        self._series = {place: series for place, series in self._series.items() if place[1] in known}
        self._attempts = {key: count for key, count in self._attempts.items() if key[0] in known}
        self._waits = {name: histogram for name, histogram in self._waits.items() if name in known}
        self._connects = {name: histogram for name, histogram in self._connects.items() if name in known}
        if len(self._entries) + len(self._series) < before:
            self._overflows = 0

    def _count_attempts(self, finished: Finished) -> None:
        for attempt in finished.attempts:
            key = (attempt.provider, attempt.failure or "ok")
            if key not in self._attempts and len(self._attempts) >= self._most:
                key = (OTHER, key[1])
            self._attempts[key] = self._attempts.get(key, 0) + 1

    def _observe(self, histograms: dict[str, Histogram], provider: str, value: float) -> None:
        histogram = histograms.get(provider)
        if histogram is None:
            name = provider if len(histograms) < self._most else OTHER
            histogram = histograms.setdefault(name, Histogram(FIRST_TOKEN))
        histogram.observe(value)

    def totals(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Return how many calls ended, and how many of them badly, by virtual model and provider."""
        found: dict[tuple[str, str], tuple[int, int]] = {}
        for (_, _, provider, model, _, _, source, _, _), entry in self._entries.items():
            ended, failed = found.get((model, provider), (0, 0))
            found[model, provider] = ended + entry.count, failed + (entry.count if source else 0)
        return found

    # -- at a scrape

    def families(self) -> Iterable[Family]:
        """Return all that was counted."""
        yield Family(
            "junctor_requests_total",
            "counter",
            "Inference requests that ended, by how they did; error_source is empty if the caller got a good answer.",
            tuple(self._requests()),
        )
        yield Family(
            "junctor_attempts_total",
            "counter",
            "Tries at providers that ended; result is ok or the failure.",
            tuple(self._tries()),
        )
        yield Family(
            "junctor_own_seconds",
            "histogram",
            "Time of a request that was not spent with providers or in a queue.",
            tuple(self._own.samples({})),
        )
        yield self._by_provider("junctor_queue_wait_seconds", "Wait for a slot, of requests that waited.", self._waits)
        yield self._by_provider(
            "junctor_connect_seconds", "New connections to providers, of requests that needed one.", self._connects
        )
        yield from self._conventional()

    def _requests(self) -> Iterator[Sample]:
        counts: dict[tuple[str, ...], int] = {}
        for (route, _, provider, _, _, verdict, source, status, _), entry in self._entries.items():
            labels = (route.value, provider, verdict, source, str(status) if status else "")
            counts[labels] = counts.get(labels, 0) + entry.count
        names = ("route", "provider", "verdict", "error_source", "status")
        for values, count in counts.items():
            yield Sample(count, dict(zip(names, values, strict=True)))

    def _tries(self) -> Iterator[Sample]:
        counts = dict(self._attempts)
        for (_, _, provider, *_), entry in self._entries.items():
            if entry.clean:
                counts[provider, "ok"] = counts.get((provider, "ok"), 0) + entry.clean
        for (provider, result), count in counts.items():
            yield Sample(count, {"provider": provider, "result": result})

    def _by_provider(self, name: str, text: str, histograms: dict[str, Histogram]) -> Family:
        found = [histogram.samples({"provider": provider}) for provider, histogram in histograms.items()]
        return Family(name, "histogram", text, tuple(sample for samples in found for sample in samples))

    def _conventional(self) -> Iterator[Family]:
        seconds: list[Sample] = []
        first: list[Sample] = []
        per_token: list[Sample] = []
        tokens: list[Sample] = []
        details: list[Sample] = []
        for place, series in self._series.items():
            labels = _labels(place)
            seconds += _some(series.seconds, labels)
            for error, histogram in series.failed.items():
                seconds += histogram.samples({**labels, "error_type": error})
            first += _some(series.first, labels)
            per_token += _some(series.per_token, labels)
            tokens += _some(series.input, {**labels, "gen_ai_token_type": "input"})
            tokens += _some(series.output, {**labels, "gen_ai_token_type": "output"})
            for kind, count in (("cached", series.cached), ("reasoning", series.reasoning)):
                if count:
                    details.append(Sample(count, {**labels, "gen_ai_token_type": kind}))
        for name, kind, text, samples in (
            ("gen_ai_server_request_duration_seconds", "histogram", "Time to the last byte of an answer.", seconds),
            ("gen_ai_server_time_to_first_token_seconds", "histogram", "Time to the first byte of a stream.", first),
            ("gen_ai_server_time_per_output_token_seconds", "histogram", "Time per token after the first.", per_token),
            ("gen_ai_client_token_usage", "histogram", "Tokens of a request, as providers reported them.", tokens),
            ("junctor_tokens_total", "counter", "Of these tokens, the cached (input) and reasoning (output).", details),
        ):
            yield Family(name, kind, text, tuple(samples))


def _count_tokens(series: _Series, finished: Finished) -> None:
    usage = finished.usage
    assert usage is not None
    if (tokens := usage.input_tokens) is not None:
        series.input.counts[bisect_left(TOKENS, tokens)] += 1
        series.input.total += tokens
    if (tokens := usage.output_tokens) is not None:
        series.output.counts[bisect_left(TOKENS, tokens)] += 1
        series.output.total += tokens
    if usage.cached_tokens:
        series.cached += usage.cached_tokens
    if usage.reasoning_tokens:
        series.reasoning += usage.reasoning_tokens


def _count_stream(series: _Series, finished: Finished) -> None:
    """Count the pace of a stream that is whole."""
    first = finished.first_byte_seconds or 0.0
    series.first.observe(first)
    usage = finished.usage
    if usage is not None and usage.output_tokens is not None and usage.output_tokens > 1:
        series.per_token.observe((finished.total_seconds - first) / (usage.output_tokens - 1))


def _error_type(verdict: str, status: int, reason: str) -> str:
    """Say what went wrong, as the conventions' ``error.type``: a status, one of our reasons, or the verdict."""
    if verdict == "complete":
        return str(status)
    return reason.lower() if reason and reason != "STREAM_BROKEN" else verdict


def _labels(place: _Place) -> dict[str, str]:
    kind, provider, virtual_model, upstream_model = place
    return {
        "gen_ai_operation_name": _OPERATIONS.get(kind, kind),
        "gen_ai_provider_name": provider,
        "gen_ai_request_model": virtual_model,
        "gen_ai_response_model": upstream_model,
    }


def _some(histogram: Histogram, labels: dict[str, str]) -> Iterable[Sample]:
    return histogram.samples(labels) if any(histogram.counts) else ()
