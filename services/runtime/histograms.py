"""Histograms that cost an index and two additions an observation, with the boundaries that conventions give."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Final

from services.runtime.metrics import Sample, number

Bounds = tuple[float, ...]
"""Upper ends of the buckets, each included, in order; the last bucket has none."""

SECONDS: Final[Bounds] = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Of a whole request (OpenTelemetry's conventions for GenAI, ``gen_ai.server.request.duration``)."""
FIRST_TOKEN: Final[Bounds] = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0),
)
"""Of the wait for the first token (as above, ``gen_ai.server.time_to_first_token``)."""
OUTPUT_TOKEN: Final[Bounds] = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
"""Of one more token (as above, ``gen_ai.server.time_per_output_token``)."""
TOKENS: Final[Bounds] = tuple(float(4**power) for power in range(14))
"""Of a request's tokens: 1 to 67,108,864 (as above, ``gen_ai.client.token.usage``)."""
HTTP_SECONDS: Final[Bounds] = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Of an HTTP request (OpenTelemetry's conventions for HTTP, ``http.server.request.duration``)."""
OWN_SECONDS: Final[Bounds] = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
"""Of what junctor itself adds; our own."""

_WORDS: Final = {
    bounds: (*map(number, bounds), "+Inf")
    for bounds in (SECONDS, FIRST_TOKEN, OUTPUT_TOKEN, TOKENS, HTTP_SECONDS, OWN_SECONDS)
}


class Histogram:
    """Counts by bucket. On a hot path write what :meth:`observe` does in place: the call costs as much again."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Observations of each bucket alone."""
        self.total = 0.0
        """Sum of what was observed."""

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self.counts)

    def samples(self, labels: Mapping[str, str]) -> Iterator[Sample]:
        """Give the lines of one series: cumulative buckets, sum, count. ``labels`` is shared by all of them."""
        reached = 0
        for upper, count in zip(_WORDS[self.bounds], self.counts, strict=True):
            reached += count
            yield Sample(reached, labels, "_bucket", upper)
        yield Sample(self.total, labels, "_sum")
        yield Sample(reached, labels, "_count")
