"""The calls that a router serves now, and the word that one has ended (:mod:`services.runtime.finished`).

Costs a set entry while a call runs and one struct at its end; nothing per event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import perf_counter

from junctor.errors import InternalError, JunctorError
from services.inference_router.attempts import Attempts, Observer
from services.inference_router.limits import Hold
from services.runtime.exchange import Call, Outcome, Verdict
from services.runtime.finished import CALLER, CANCELLED, FAILED, PROVIDER, Finished, Hooks, source_of
from services.runtime.tracing import Trace

_COMPLETE = Verdict.COMPLETE
_WORDS = {verdict: verdict.value for verdict in Verdict}


class Flight:
    """A call under way. What is not known yet is None or empty."""

    __slots__ = ("attempts", "call", "hold", "observer", "started", "streams", "trace", "virtual_model")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.started = perf_counter()
        self.virtual_model = ""
        """``workspace/name``; empty on a call by provider."""
        self.streams = False
        """The caller asked for a stream."""
        self.trace: Trace | None = None
        self.observer: Observer | None = None
        self.attempts: Attempts | None = None
        self.hold: Hold | None = None
        """What it has reserved of limits, until it has ended."""

    @property
    def streaming(self) -> bool:
        """An event stream goes to the caller now."""
        answer = self.attempts.answer if self.attempts is not None else None
        return answer is not None and answer.committed and answer.streams

    @property
    def provider(self) -> str:
        """``workspace/name`` of the provider that is asked now, or was last; empty: none yet."""
        candidate = self.attempts.candidate if self.attempts is not None else None
        return candidate.provider.ref if candidate is not None else ""


class Flights:
    """The calls of one router."""

    __slots__ = ("_now", "hooks")

    def __init__(self) -> None:
        self._now: set[Flight] = set()
        self.hooks = Hooks()

    def __len__(self) -> int:
        return len(self._now)

    def __iter__(self) -> Iterator[Flight]:
        return iter(tuple(self._now))

    def begin(self, call: Call) -> Flight:
        """Note that a call begins."""
        flight = Flight(call)
        self._now.add(flight)
        return flight

    def end(self, flight: Flight, outcome: Outcome) -> None:
        """Note that a call has ended after its head was sent."""
        self._now.discard(flight)
        if self.hooks:
            self.hooks.tell(_answered(flight, outcome))

    def fail(self, flight: Flight, error: BaseException) -> None:
        """Note that a call has failed, or that its caller left."""
        self._now.discard(flight)
        if self.hooks:
            self.hooks.tell(_unanswered(flight, error))


def _answered(flight: Flight, outcome: Outcome) -> Finished:
    status = 0
    answer = flight.attempts.answer if flight.attempts is not None else None
    if answer is not None:
        status = answer.status
    source = ""
    if outcome.verdict is not _COMPLETE:
        source = source_of(outcome.error) if outcome.error is not None else PROVIDER
    elif status >= 400:
        source = PROVIDER
    return _finished(flight, outcome, status, _WORDS[outcome.verdict], source, outcome.error)


def _unanswered(flight: Flight, error: BaseException) -> Finished:
    answer = flight.attempts.answer if flight.attempts is not None else None
    status = answer.status if answer is not None and answer.committed else 0
    if isinstance(error, asyncio.CancelledError):
        return _finished(flight, None, status, CANCELLED, CALLER, None)
    if not isinstance(error, JunctorError):
        error = InternalError("Internal error")
    verdict = FAILED if not status else _WORDS[Verdict.PROVIDER_ERROR]
    return _finished(flight, None, status, verdict, source_of(error), error)


def _finished(
    flight: Flight,
    outcome: Outcome | None,
    status: int,
    verdict: str,
    source: str,
    error: JunctorError | None,
) -> Finished:
    """Gather what is known of a call. Positional, in the order of the fields: keywords cost as much as all else."""
    attempts = flight.attempts
    if attempts is None:  # it got no further than its name
        return Finished(
            flight.call,
            flight.virtual_model,
            streams=flight.streams,
            verdict=verdict,
            source=source,
            error=error,
            total_seconds=perf_counter() - flight.started,
            trace=flight.trace,
        )
    candidate = attempts.candidate
    answer = attempts.answer
    observer = flight.observer
    first_byte = None
    streams = flight.streams
    usage = None
    size = 0
    if answer is not None:
        first_byte = answer.first_byte_at - flight.started if answer.first_byte_at else None
        streams = streams or answer.streams
        usage = outcome.usage if outcome is not None else answer.usage()
        if usage is None:
            size = answer.size()
    done = outcome.attempts if outcome is not None else tuple(attempts.done)
    return Finished(
        flight.call,
        flight.virtual_model,
        candidate.entity if candidate is not None else "",
        candidate.provider.ref if candidate is not None else "",
        candidate.upstream_id if candidate is not None else "",
        streams,
        status,
        verdict,
        source,
        error,
        done,
        usage,
        observer.waited if observer is not None else 0.0,
        attempts.connecting,
        first_byte,
        outcome.upstream_seconds if outcome is not None else sum(one.milliseconds for one in done) / 1000,
        perf_counter() - flight.started,
        flight.trace,
        size,
    )
