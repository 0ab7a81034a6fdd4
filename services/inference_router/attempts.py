"""Tries the candidates of one call, one after the other, until one answers.

Failure before anything was given to the sink leads to the next candidate, within the attempt cap, the retry budget
and the total timer. After that nothing is spliced in: the answer ends with a truthful verdict.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter  # the time of uvloop's loop moves once a turn, by whole milliseconds

import msgspec

from junctor import errors
from junctor.errors import JunctorError
from junctor.v1.receipt_pb2 import Receipt
from services.inference_router.answer import Answer
from services.inference_router.decoding import BadCoding
from services.inference_router.receipts import ReceiptSink
from services.inference_router.snapshot import Candidate, Retry
from services.inference_router.upstream import UpstreamClient
from services.inference_router.upstream_types import FailureKind, UpstreamFailure, UpstreamRequest
from services.runtime.exchange import Attempt, Headers, Outcome, Sink, Verdict

RETRIABLE_STATUS = frozenset({401, 403, 404, 408, 429}) | frozenset(range(500, 600))
"""Statuses after which another provider may do better: its key, its deployment or its load is the matter, not the
caller's request. Every other 4xx is an answer."""
REPEATABLE_METHODS = frozenset({"GET", "POST"})
"""Methods repeated after request bytes were sent. POST is: an inference call has no effect but its cost."""
TIMEOUTS = frozenset({FailureKind.CONNECT_TIMEOUT, FailureKind.FIRST_BYTE_TIMEOUT, FailureKind.IDLE_TIMEOUT})

LARGE = 1024 * 1024
"""Bytes of a request body above which a thread reads and rewrites it: 64 MiB take longer than others may wait."""
SENT = "request_sent"
"""Metadata of an error: ``true`` if any provider may have begun to work on the request, and may charge for it."""
ATTEMPTS = "attempts"
"""Metadata of an error: how many providers were tried."""

_OWN = (errors.AddressRefused, errors.Overloaded, errors.NotReady)
"""Errors that are the gateway's, not a provider's: of several they say the least."""

_FREE = frozenset({"connect", "connect_timeout", "tls", "refused_address", "queue_full", "out_of_service"})
"""Failures of attempts that sent nothing."""

_VERDICTS = {
    FailureKind.IDLE_TIMEOUT: Verdict.STALLED,
    FailureKind.FIRST_BYTE_TIMEOUT: Verdict.STALLED,  # after a ping: nothing else begins an answer without a byte
    FailureKind.MALFORMED: Verdict.PROVIDER_ERROR,
}


@dataclass(slots=True)
class Plan:
    """What is to be tried for one call."""

    candidates: Sequence[Candidate]
    """In the order of trying; never empty."""
    request_for: Callable[[Candidate], UpstreamRequest]
    """Makes the request to one candidate. Raises JunctorError if there can be none."""
    rewrites: bool
    """The answer's model is shown under the entity's name; false on the provider route."""
    method: str
    retry: Retry = Retry.BEFORE_FIRST_BYTE
    cap: int = 3
    large: bool = False
    """The body is above :data:`LARGE`: ``request_for`` is called in a thread."""
    ping_seconds: float | None = None
    """After how long a silence an event stream gets a comment; None: never."""
    receipt: Receipt | None = None
    """What the answer shall carry, if the caller asked for it."""
    current: Callable[[Candidate], Candidate | None] = lambda candidate: candidate
    """What a candidate is by now, asked before each but the first is tried; None: it takes no calls any more."""


class Observer:
    """Hears how attempts go; the router's health and load keeping overrides what it needs."""

    __slots__ = ("until", "waited")

    until: float
    """When the call ends at the latest, by the event loop's clock."""

    def __init__(self) -> None:
        self.waited = 0.0
        """Seconds for which the call waited for slots."""

    async def admit(self, candidate: Candidate) -> None:
        """Wait for a slot at a provider that has a limit. Raises Overloaded, NotReady."""

    def began(self, candidate: Candidate, answer: Answer) -> None:
        """An attempt begins; ``answer`` is where its answer will be."""

    def ended(self, candidate: Candidate, answer: Answer, failure: UpstreamFailure | None) -> None:
        """An attempt has ended: with an answer of some status, or with a failure."""

    def may_retry(self) -> bool:
        """Take one retry from the budget."""
        return True


@dataclass(frozen=True, slots=True)
class _Miss:
    """An attempt that gave no answer which could be passed on."""

    error: JunctorError
    sent: bool
    """A byte of the request left."""


class Attempts:
    """The attempts of one call."""

    __slots__ = (
        "_began",
        "_client",
        "_current",
        "_done",
        "_observer",
        "_sent",
        "_sink",
        "_started",
        "candidate",
        "connecting",
        "outcome",
        "told",
    )

    def __init__(self, client: UpstreamClient, sink: Sink, observer: Observer) -> None:
        self._client = client
        self._sink = sink
        self._observer = observer
        self._started = self._began = perf_counter()
        self._done: list[Attempt] = []
        self._current: Answer | None = None
        self._sent = False
        self.candidate: Candidate | None = None
        """The one that was tried last."""
        self.connecting = 0.0
        """Seconds that went into new connections."""
        self.outcome: Outcome | None = None
        """What the sink was ended with; None: it was not."""
        self.told: Headers | None = None
        """Fields that the answer's head gets beside the provider's, and instead of its own of the same names."""

    @property
    def answer(self) -> Answer | None:
        """Where the answer is, or will be, that the caller gets."""
        return self._current

    @property
    def done(self) -> Sequence[Attempt]:
        """Attempts that have ended."""
        return self._done

    def write(self, receipt: Receipt) -> None:
        """Have what comes of the call carry its receipt."""
        self._sink = ReceiptSink(self._sink, receipt, self._done)

    async def run(self, plan: Plan) -> Outcome:
        """Try until one answers. When all failed, passes on the last answer that a provider gave.

        Raises JunctorError when there is none, of all failures the last that was a provider's.
        """
        given: Answer | None = None
        given_by: Candidate | None = None
        missed: _Miss | None = None
        number = 0
        for planned in plan.candidates:
            candidate = plan.current(planned) if number else planned
            if candidate is None:
                continue
            if number == plan.cap or (number and not self._observer.may_retry()):
                break
            number += 1
            # It may raise, so before there is a slot to give back.
            make = plan.request_for
            self.candidate = candidate
            request = make(candidate) if not plan.large else await asyncio.to_thread(make, candidate)
            if candidate.provider.max_concurrency and (busy := await self._busy(candidate)) is not None:
                missed = missed or busy
                continue
            answer = self._expect(plan, candidate, number)
            miss = await self._attempt(request, candidate, answer)
            if self.outcome is not None:
                return self.outcome
            if miss is None:
                given, given_by = answer, candidate
            elif missed is None or not isinstance(miss.error, _OWN):
                missed = miss
            if not _may_go_on(plan, answer, miss):
                break
        if given is not None:
            return self._deliver(given, given_by)
        raise self._noted(missed.error if missed else errors.NoRoute("There is no provider to try."))

    async def _busy(self, candidate: Candidate) -> _Miss | None:
        """Wait for a slot of a provider with a limit; returns why there was none."""
        self._current = None  # nothing is under way while it waits
        self._began = perf_counter()
        try:
            await self._observer.admit(candidate)
        except (errors.Overloaded, errors.NotReady) as error:
            waited = (perf_counter() - self._began) * 1000
            why = "queue_full" if isinstance(error, errors.Overloaded) else "out_of_service"
            self._done.append(Attempt(candidate.provider.ref, 0, why, waited))
            return _Miss(error, False)
        return None

    def expire(self, text: str) -> Outcome:
        """The total timer ran out: end an answer that has begun. Raises UpstreamTimeout if none has."""
        if self.outcome is not None:
            return self.outcome
        if self._current is not None and self._current.committed:
            return self._broken(Verdict.TIMED_OUT, errors.StreamBroken(text))
        self._sent = self._sent or self._current is not None  # nobody knows how far the attempt had come
        raise self._noted(errors.UpstreamTimeout(text))

    def _expect(self, plan: Plan, candidate: Candidate, number: int) -> Answer:
        answer = Answer(
            self._sink,
            provider=candidate.provider.ref,
            served=candidate.upstream_id if plan.rewrites else "",
            shown=candidate.entity if plan.rewrites else "",
            attempts=number,
        )
        answer.told = self.told
        answer.on_complete = self._complete
        answer.ping_seconds = plan.ping_seconds
        self._current = answer
        return answer

    async def _attempt(self, request: UpstreamRequest, candidate: Candidate, answer: Answer) -> _Miss | None:
        """Make one attempt; returns why it gave no answer. Sets ``outcome`` if the sink got its end."""
        failure: UpstreamFailure | None = None
        self._observer.began(candidate, answer)
        self._began = answer.began = perf_counter()
        if self._done:
            answer.began -= sum(attempt.milliseconds for attempt in self._done) / 1000
        try:
            await self._client.exchange(request, answer)
            await answer.settled()
        except UpstreamFailure as error:
            failure = None if answer.complete_early() else error
        except BadCoding:
            failure = UpstreamFailure(FailureKind.MALFORMED, "The provider's compressed answer is broken.")
            failure.request_started = True
        finally:
            answer.close()
            self.connecting += request.connect_seconds
            self._record(answer, failure)
            self._observer.ended(candidate, answer, failure)
        return self._judge(answer, failure)

    def _judge(self, answer: Answer, failure: UpstreamFailure | None) -> _Miss | None:
        sent = failure is None or failure.request_started
        self._sent = self._sent or sent
        if answer.refused is not None:
            return _Miss(answer.refused, sent)
        if failure is None or answer.status >= 400:
            return None  # of an error the status says what matters, also if its body broke
        error = to_error(failure, answer.provider)
        if answer.committed:
            broken = errors.StreamBroken(str(failure), domain=error.domain)
            self._broken(_VERDICTS.get(failure.kind, Verdict.TRUNCATED), broken)
        return _Miss(error, sent)

    def _deliver(self, given: Answer, by: Candidate | None) -> Outcome:
        """Pass on an error that was an answer."""
        used = given.attempts - 1
        self.candidate = by
        self._done[used] = msgspec.structs.replace(self._done[used], failure="")
        self._current = given
        given.deliver_error(attempts=len(self._done))
        if self.outcome is None:
            raise RuntimeError("an answer was delivered without an end")
        return self.outcome

    def _record(self, answer: Answer, failure: UpstreamFailure | None) -> None:
        """Note the attempt under way, once."""
        if len(self._done) >= answer.attempts:
            return
        why = ""
        if failure is not None:
            late = failure.kind in TIMEOUTS and failure.kind is not FailureKind.CONNECT_TIMEOUT
            why = "timeout" if late else failure.kind.value
        elif answer.refused is not None or answer.status >= 400:
            why = "status"
        elif not answer.committed:
            why = "cut_off"  # by the caller, or by the total timer
        self._done.append(Attempt(answer.provider, answer.status, why, (perf_counter() - self._began) * 1000))

    def _noted(self, error: JunctorError) -> JunctorError:
        """Add what the caller has to know before it tries again."""
        error.metadata[ATTEMPTS] = str(len(self._done))
        error.metadata[SENT] = "true" if self._sent else "false"
        if isinstance(self._sink, ReceiptSink):
            self._sink.fail(error)
        return error

    def _broken(self, verdict: Verdict, error: JunctorError) -> Outcome:
        """End an answer that has begun, truthfully."""
        self.outcome = self._outcome(verdict, error)
        self._sink.end(self.outcome)
        return self.outcome

    def _complete(self) -> Outcome:
        self.outcome = self._outcome(Verdict.COMPLETE, None)
        return self.outcome

    def _outcome(self, verdict: Verdict, error: JunctorError | None) -> Outcome:
        if self._current is not None:
            self._record(self._current, None)
        done = self._done
        upstream = done[0].milliseconds if len(done) == 1 else sum([attempt.milliseconds for attempt in done])
        return Outcome(
            verdict,
            error,
            tuple(done),
            self._current.usage() if self._current else None,
            upstream / 1000,
            perf_counter() - self._started,
        )


def _may_go_on(plan: Plan, answer: Answer, miss: _Miss | None) -> bool:
    """Tell whether the next candidate may be tried after an attempt that gave nothing to the sink."""
    if plan.retry is Retry.NEVER:
        return False
    if miss is None and answer.status not in RETRIABLE_STATUS:
        return False  # a refusal of the request itself: every provider would say the same
    if miss is not None and not miss.sent:
        return True
    return plan.retry is Retry.BEFORE_FIRST_BYTE and plan.method in REPEATABLE_METHODS


def may_have_cost(attempt: Attempt) -> bool:
    """Tell whether a provider may have worked on a request: it refused it by no 4xx, and got a byte of it."""
    if attempt.failure in ("", "status"):
        return not 400 <= attempt.status < 500
    return attempt.failure not in _FREE


def never_sent(attempt: Attempt) -> bool:
    """Tell whether no byte of the request left."""
    return attempt.failure in _FREE


def to_error(failure: UpstreamFailure, provider: str) -> JunctorError:
    """Say what an upstream failure means to the caller."""
    if failure.kind is FailureKind.REFUSED_ADDRESS:
        return errors.AddressRefused(str(failure))
    kind: type[JunctorError] = errors.UpstreamUnreachable
    if failure.kind in TIMEOUTS:
        kind = errors.UpstreamTimeout
    elif failure.kind is FailureKind.MALFORMED:
        kind = errors.UpstreamInvalid
    return kind(str(failure), domain=f"provider/{provider}")
