"""What a router knows of itself, as metrics: calls under way, candidates that are out, queues, the catalog's age.

All but the counters of ended calls is read off at the scrape, so it costs requests nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator

from junctor import names
from services.inference_router.catalog import CatalogKeeper
from services.inference_router.resolution import expand
from services.inference_router.router import Router
from services.runtime.inference_metrics import InferenceMetrics
from services.runtime.metrics import Family, Sample, gauge

MOST = 1000
"""Virtual models that are named when nobody serves them; the number of all is told as well."""


class RouterMetrics:
    """The collector of one router; also the hook that counts its calls."""

    def __init__(self, router: Router, keeper: CatalogKeeper) -> None:
        self._router = router
        self._keeper = keeper
        self.calls = InferenceMetrics(lambda: {provider.ref for provider in keeper.catalog.providers.values()})
        router.flights.hooks.add(self.calls)
        self._candidates: dict[str, tuple[tuple[str, str], ...]] = {}
        """By virtual model; made anew when the catalog has changed."""
        self._made_at = -1

    def families(self) -> Iterable[Family]:
        """Return everything."""
        yield from self.calls.families()
        yield from self._under_way()
        yield from self._health()
        yield from self._catalog()

    def _under_way(self) -> Iterator[Family]:
        flights = list(self._router.flights)
        calls = Counter(flight.provider for flight in flights)
        streams = sum(flight.streaming for flight in flights)
        yield Family(
            "junctor_requests_in_flight",
            "gauge",
            "Requests under way, by the provider that is asked; without one: none yet.",
            _by("provider", calls) or (Sample(0),),
        )
        yield gauge("junctor_streams_in_flight", "Event streams that go to callers now.", streams)
        waiting = self._router.ledger.slots.queues()
        yield Family("junctor_queue_length", "gauge", "Requests that wait for a slot.", _by("provider", waiting))

    def _health(self) -> Iterator[Family]:
        ledger = self._router.ledger
        out = ledger.out()
        reasons = tuple(
            Sample(1, {"provider": provider, "model": model, "reason": ledger.why_out((provider, model))})
            for provider, model in out
        )
        yield Family("junctor_candidate_out", "gauge", "1 for each provider and model that is out now.", reasons)
        ejections = tuple(
            Sample(count, {"provider": provider, "model": model})
            for (provider, model), count in ledger.ejections.items()
        )
        yield Family("junctor_ejections_total", "counter", "Times that a provider was put out for a model.", ejections)
        unserved = [model for model, found in self._by_model().items() if all(key in out for key in found)]
        yield gauge("junctor_unserved_models", "Virtual models whose providers are all out or missing.", len(unserved))
        named = tuple(Sample(1, {"virtual_model": model}) for model in unserved[:MOST])
        yield Family("junctor_model_unserved", "gauge", "1 for each virtual model that nobody serves now.", named)

    def _by_model(self) -> dict[str, tuple[tuple[str, str], ...]]:
        if self._made_at != self._keeper.changes:
            self._made_at = self._keeper.changes
            catalog = self._keeper.catalog
            self._candidates = {
                names.join(*key): tuple(
                    candidate.key for group in expand(catalog, model).groups for candidate in group.candidates
                )
                for key, model in catalog.virtual_models.items()
            }
        return self._candidates

    def _catalog(self) -> Iterator[Family]:
        keeper = self._keeper
        catalog = keeper.catalog
        stale = keeper.stale_seconds()
        yield gauge("junctor_catalog_stale_seconds", "Seconds since the least heard of registry said anything.", stale)
        yield gauge("junctor_catalog_loaded", "1 once there is a whole catalog.", int(keeper.loaded()))
        yield gauge("junctor_catalog_providers", "Providers in the catalog.", len(catalog.providers))
        yield gauge("junctor_catalog_virtual_models", "Virtual models in the catalog.", len(catalog.virtual_models))
        revisions = _by("store", keeper.revisions())
        yield Family("junctor_catalog_revision", "gauge", "Revision of a store that calls are routed by.", revisions)
        yield from self._watches()

    def _watches(self) -> Iterator[Family]:
        now = asyncio.get_running_loop().time()
        connected: list[Sample] = []
        silent: list[Sample] = []
        lags: list[Sample] = []
        for follower in self._keeper.followers:
            labels = {"watch": follower.name.replace(" ", "_")}
            connected.append(Sample(int(follower.connected), labels))
            if follower.last_heard is not None:
                silent.append(Sample(now - follower.last_heard, labels))
            lags += follower.lag.samples(labels)
        for name, kind, text, samples in (
            ("junctor_watch_connected", "gauge", "1 while changes of a registry arrive.", connected),
            ("junctor_watch_silence_seconds", "gauge", "Since a registry said anything; heartbeats: 5 s.", silent),
            ("junctor_watch_lag_seconds", "histogram", "From a change's writing to its being in force here.", lags),
        ):
            yield Family(name, kind, text, tuple(samples))


def _by(label: str, counts: dict[str, int] | Counter[str]) -> tuple[Sample, ...]:
    return tuple(Sample(count, {label: name}) for name, count in counts.items())
