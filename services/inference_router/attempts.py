"""Tries the candidates of one call, one after the other, until one answers.

Failure before anything was given to the sink leads to the next candidate, within the attempt cap, the retry budget
and the total timer. After that nothing is spliced in: the answer ends with a truthful verdict.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from junctor import errors
from junctor.errors import JunctorError
from services.inference_router.answer import Answer
from services.inference_router.decoding import BadCoding
from services.inference_router.snapshot import Candidate, Retry
from services.inference_router.upstream import UpstreamClient
from services.inference_router.upstream_types import FailureKind, UpstreamFailure, UpstreamRequest
from services.runtime.exchange import Attempt, Outcome, Sink, Verdict

RETRIABLE_STATUS = frozenset({401, 403, 404, 408, 429}) | frozenset(range(500, 600))
"""Statuses after which another provider may do better: its key, its deployment or its load is the matter, not the
caller's request. Every other 4xx is an answer."""
REPEATABLE_METHODS = frozenset({"GET", "POST"})
"""Methods repeated after request bytes were sent. POST is: an inference call has no effect but its cost."""

_VERDICTS = {
    FailureKind.IDLE_TIMEOUT: Verdict.STALLED,
    FailureKind.MALFORMED: Verdict.PROVIDER_ERROR,
}
_TIMEOUTS = (FailureKind.CONNECT_TIMEOUT, FailureKind.FIRST_BYTE_TIMEOUT, FailureKind.IDLE_TIMEOUT)


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


class Observer:
    """Hears how attempts go; the router's health and load keeping overrides what it needs."""

    def began(self, candidate: Candidate) -> None:
        """An attempt begins."""

    def ended(self, candidate: Candidate, answer: Answer, failure: UpstreamFailure | None) -> None:
        """An attempt has ended: with an answer of some status, or with a failure."""

    def may_retry(self) -> bool:
        """Take one retry from the budget."""
        return True


class Attempts:
    """The attempts of one call."""

    __slots__ = ("_began", "_client", "_current", "_done", "_loop", "_observer", "_sink", "_started", "outcome")

    def __init__(self, client: UpstreamClient, sink: Sink, observer: Observer) -> None:
        self._client = client
        self._sink = sink
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._started = self._began = self._loop.time()
        self._done: list[Attempt] = []
        self._current: Answer | None = None
        self.outcome: Outcome | None = None
        """What the sink was ended with; None: it was not."""

    @property
    def committed(self) -> bool:
        """The sink has been given a head: this answer or none."""
        return self._current is not None and self._current.committed

    async def run(self, plan: Plan) -> Outcome:
        """Try until one answers. When all failed, passes on the last answer that a provider gave.

        Raises JunctorError when there is none.
        """
        given: Answer | None = None
        error: JunctorError | None = None
        for number, candidate in enumerate(plan.candidates[: plan.cap], start=1):
            if number > 1 and not self._observer.may_retry():
                break
            answer = self._expect(plan, candidate, number)
            error = await self._attempt(plan.request_for(candidate), candidate, answer)
            if self.outcome is not None:
                return self.outcome
            if error is None:
                given = answer
            if not _may_go_on(plan, answer, error):
                break
        if given is None:
            raise error or errors.NoRoute("There is no provider to try.")
        self._current = given
        given.deliver_error()
        return self._ended()

    def broken(self, verdict: Verdict, error: JunctorError) -> Outcome:
        """End an answer that has begun, truthfully."""
        self.outcome = self._outcome(verdict, error)
        self._sink.end(self.outcome)
        return self.outcome

    def _expect(self, plan: Plan, candidate: Candidate, number: int) -> Answer:
        answer = Answer(
            self._sink,
            provider=candidate.provider.ref,
            served=candidate.upstream_id if plan.rewrites else "",
            shown=candidate.entity if plan.rewrites else "",
            attempts=number,
        )
        answer.on_complete = self._complete
        self._current = answer
        return answer

    async def _attempt(self, request: UpstreamRequest, candidate: Candidate, answer: Answer) -> JunctorError | None:
        """Make one attempt; returns why it gave no answer. Sets ``outcome`` if the sink got its end."""
        failure: UpstreamFailure | None = None
        self._observer.began(candidate)
        self._began = self._loop.time()
        try:
            await self._client.exchange(request, answer)
        except UpstreamFailure as error:
            failure = error
        except BadCoding:
            failure = UpstreamFailure(FailureKind.MALFORMED, "The provider's compressed answer is broken.")
        finally:
            answer.close()
            self._record(answer, failure)
            self._observer.ended(candidate, answer, failure)
        if failure is None or self.outcome is not None or answer.status >= 400:
            return answer.refused
        if answer.committed:
            verdict = _VERDICTS.get(failure.kind, Verdict.TRUNCATED)
            self.broken(verdict, errors.StreamBroken(str(failure), domain=f"provider/{candidate.provider.ref}"))
            return None
        return to_error(failure, candidate.provider.ref)

    def _record(self, answer: Answer, failure: UpstreamFailure | None) -> None:
        """Note the attempt under way, once."""
        if len(self._done) >= answer.attempts:
            return
        why = ""
        if failure is not None:
            why = "timeout" if failure.kind in _TIMEOUTS else failure.kind.value
        elif answer.refused is not None or answer.status in RETRIABLE_STATUS:
            why = "status"
        self._done.append(Attempt(answer.provider, answer.status, why, (self._loop.time() - self._began) * 1000))

    def _complete(self) -> Outcome:
        self.outcome = self._outcome(Verdict.COMPLETE, None)
        return self.outcome

    def _outcome(self, verdict: Verdict, error: JunctorError | None) -> Outcome:
        if self._current is not None:
            self._record(self._current, None)
        return Outcome(
            verdict=verdict,
            error=error,
            attempts=tuple(self._done),
            usage=self._current.usage() if self._current else None,
            upstream_seconds=sum(attempt.milliseconds for attempt in self._done) / 1000,
            total_seconds=self._loop.time() - self._started,
        )

    def _ended(self) -> Outcome:
        if self.outcome is None:
            raise RuntimeError("an answer was delivered without an end")
        return self.outcome


def _may_go_on(plan: Plan, answer: Answer, error: JunctorError | None) -> bool:
    """Tell whether the next candidate may be tried after an attempt that gave nothing to the sink."""
    if error is None and answer.status not in RETRIABLE_STATUS:
        return False  # a refusal of the request itself: every provider would say the same
    if plan.retry is Retry.NEVER:
        return False
    unsent = error is not None and "unsent" in error.metadata
    return unsent or (plan.retry is Retry.BEFORE_FIRST_BYTE and plan.method in REPEATABLE_METHODS)


def to_error(failure: UpstreamFailure, provider: str) -> JunctorError:
    """Say what an upstream failure means to the caller."""
    domain = f"provider/{provider}"
    if failure.kind is FailureKind.REFUSED_ADDRESS:
        return errors.AddressRefused(str(failure), metadata={"unsent": "true"})
    metadata = {} if failure.request_started else {"unsent": "true"}
    if failure.kind in _TIMEOUTS:
        return errors.UpstreamTimeout(str(failure), domain=domain, metadata=metadata)
    if failure.kind is FailureKind.MALFORMED:
        return errors.UpstreamInvalid(str(failure), domain=domain)
    return errors.UpstreamUnreachable(str(failure), domain=domain, metadata=metadata)
