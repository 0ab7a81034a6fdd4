"""What this router has learned of its candidates: calls open, health, and what retries may still cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from services.inference_router import ejection
from services.inference_router.answer import Answer
from services.inference_router.attempts import TIMEOUTS, Observer
from services.inference_router.budget import RetryBudget
from services.inference_router.headers import retry_after_seconds
from services.inference_router.routing import Key
from services.inference_router.slots import QUEUE_LIMIT, Slots
from services.inference_router.snapshot import Candidate, Provider
from services.inference_router.upstream_types import FailureKind, UpstreamFailure

_OWN_REFUSALS = frozenset({FailureKind.REFUSED_ADDRESS})
"""Failures that are the gateway's policy, not the provider's fault."""


class Ledger:
    """Loads and health by (provider, upstream id); retry budgets by virtual model. One per router."""

    def __init__(self, clock: Callable[[], float], *, queue_limit: int = QUEUE_LIMIT) -> None:
        self.slots = Slots(clock, queue_limit=queue_limit)
        """Providers whose owner limited their calls."""
        self.clock = clock
        """Monotonic seconds; all that is counted here goes by it."""
        self.loads: dict[Key, int] = {}
        self.ejections: dict[Key, int] = {}
        """How often each was put out; of providers that are in the catalog."""
        self._health: dict[Key, ejection.Health] = {}
        self._probes: dict[Key, Answer] = {}
        """What the probe of a candidate is answered with; only of those in ``_health``."""
        self._budgets: dict[str, RetryBudget] = {}
        self._turns: dict[str, int] = {}

    def out(self) -> Mapping[Key, float]:
        """Return the candidates that are out now, with when they return."""
        if not self._health:
            return {}
        self._look_at_probes()
        now = self.clock()
        found = {key: ejection.returns_at(health, now) for key, health in self._health.items()}
        return {key: until for key, until in found.items() if until}

    def why_out(self, key: Key) -> str:
        """Name the reason why a candidate is out; empty if it is not."""
        self._look_at_probes()
        return ejection.why_out(self._health.get(key, ejection.HEALTHY), self.clock())

    def _look_at_probes(self) -> None:
        """Let a probe hold up nobody once its answer has begun: a stream may go on for half an hour.

        It is a success only when it has ended well; until then one call at a time is the next probe.
        """
        begun = [key for key, answer in self._probes.items() if answer.committed]
        for key in begun:
            del self._probes[key]
            self._health[key] = ejection.abandoned(self._health[key])

    def turn(self, virtual_model: str) -> int:
        """Count a call of a virtual model; returns how many it had before."""
        before = self._turns.get(virtual_model, 0)
        self._turns[virtual_model] = before + 1
        return before

    def peek_turn(self, virtual_model: str) -> int:
        """Return what :meth:`turn` would, without counting."""
        return self._turns.get(virtual_model, 0)

    def budget(self, virtual_model: str) -> RetryBudget:
        """Return the retry budget of a virtual model, one request of a caller counted."""
        now = self.clock()
        budget = self._budgets.get(virtual_model)
        if budget is None:
            budget = self._budgets[virtual_model] = RetryBudget(now)
        budget.request(now)
        return budget

    def reset(self, provider: str) -> None:
        """Forget what is known of a provider's health."""
        for key in [key for key in self._health if key[0] == provider]:
            del self._health[key]
            self._probes.pop(key, None)

    def provider_changed(self, ref: str, provider: Provider | None) -> None:
        """Take what a provider has become. One that is gone (None) leaves no health to the next of its name."""
        self.slots.follow(ref, provider)
        if provider is None:
            self.reset(ref)
            self.ejections = {key: count for key, count in self.ejections.items() if key[0] != ref}

    def started(self, key: Key, answer: Answer) -> None:
        """A call to a candidate begins; the first one after an ejection is its probe."""
        before = self._health.get(key)
        if before is not None:
            self._health[key] = health = ejection.started(before, self.clock())
            if health.probing and not before.probing:
                self._probes[key] = answer

    def opened(self, key: Key) -> None:
        """Count an open call."""
        self.loads[key] = self.loads.get(key, 0) + 1

    def closed(self, key: Key) -> None:
        """Count it no more."""
        left = self.loads[key] - 1
        if left:
            self.loads[key] = left
        else:
            del self.loads[key]

    def judge(self, key: Key, answer: Answer, failure: UpstreamFailure | None) -> None:
        """Learn from a call that has ended, with an answer, a failure, or neither (the caller left)."""
        if failure is None and 0 < answer.status < 400 and answer.refused is None and key not in self._health:
            return  # well before, and after: nearly every call
        health = self._health.get(key, ejection.HEALTHY)
        after = self._judged(health, answer, failure)
        if after.out_until > health.out_until:
            self.ejections[key] = self.ejections.get(key, 0) + 1
        if not after.probing:
            self._probes.pop(key, None)
        if after == ejection.HEALTHY:
            self._health.pop(key, None)
        elif after is not health:
            self._health[key] = after

    def _judged(self, health: ejection.Health, answer: Answer, failure: UpstreamFailure | None) -> ejection.Health:
        now = self.clock()
        if failure is not None and answer.status < 400:  # of an error the status says what matters
            own = failure.kind in _OWN_REFUSALS
            return ejection.abandoned(health) if own else ejection.failed(health, now)
        if answer.refused is not None:
            return ejection.failed(health, now)
        if not answer.complete and failure is None:
            return ejection.abandoned(health)
        if answer.status in (429, 503):
            wait = retry_after_seconds(answer.headers, time.time())
            if wait is not None:
                health = ejection.rested(health, wait, now)
        if ejection.is_fault(answer.status):
            return ejection.failed(health, now)
        return ejection.abandoned(health) if answer.status in (408, 429) else ejection.succeeded(health, now)


class Counted(Observer):
    """Counts the open calls of a provider that were made by its name, and learns nothing from them."""

    __slots__ = ("_admitted", "_ledger")

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger
        self._admitted = 0.0

    async def admit(self, candidate: Candidate) -> None:
        """Wait for a slot of a provider with a limit. Raises Overloaded, NotReady."""
        slots, came = self._ledger.slots, self._ledger.clock()
        waits = candidate.provider.ref in slots.full
        try:
            await slots.take(candidate.provider, self.until)
        finally:
            self._admitted = self._ledger.clock()
            if waits:
                self.waited += self._admitted - came

    def began(self, candidate: Candidate, answer: Answer) -> None:
        """Count an open call."""
        self._ledger.opened(candidate.key)

    def ended(self, candidate: Candidate, answer: Answer, failure: UpstreamFailure | None) -> None:
        """Count it no more."""
        self._ledger.closed(candidate.key)
        if candidate.provider.max_concurrency:
            self._ledger.slots.release(candidate.provider.ref, self._ledger.clock() - self._admitted)


class Observed(Counted):
    """Writes the attempts of one call into the ledger."""

    __slots__ = ("_budget", "_impatient")

    def __init__(self, ledger: Ledger, virtual_model: str, *, impatient: bool = False) -> None:
        """``impatient``: the caller set timers of its own, so their expiry says nothing about a provider."""
        super().__init__(ledger)
        self._budget = ledger.budget(virtual_model)
        self._impatient = impatient

    def began(self, candidate: Candidate, answer: Answer) -> None:
        """Count an open call."""
        super().began(candidate, answer)
        self._ledger.started(candidate.key, answer)

    def ended(self, candidate: Candidate, answer: Answer, failure: UpstreamFailure | None) -> None:
        """Close it and judge the candidate by it."""
        super().ended(candidate, answer, failure)
        if failure is not None and self._impatient and failure.kind in TIMEOUTS:
            failure = None
        self._ledger.judge(candidate.key, answer, failure)

    def may_retry(self) -> bool:
        """Take one retry from the virtual model's budget."""
        return self._budget.take(self._ledger.clock())
