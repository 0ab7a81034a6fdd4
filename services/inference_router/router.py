"""The router: one object with one method, ``invoke``. Decides by pure functions over the catalog, then tries.

Coroutines run per request; body bytes go by callbacks from the provider's connection into the sink.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from junctor import names
from junctor.errors import CredentialUnavailable, NotFound, NotReady, Unavailable
from services.access.identity import NOBODY, Caller
from services.inference_router import resolution, routing
from services.inference_router.attempts import LARGE, Attempts, Observer, Plan
from services.inference_router.catalog import CatalogKeeper
from services.inference_router.discoveries import Discoveries
from services.inference_router.explaining import decision, pinned_decision
from services.inference_router.flights import Flight, Flights
from services.inference_router.ledger import Counted, Ledger, Observed
from services.inference_router.limits_calls import CallLimits
from services.inference_router.permission import Permissions
from services.inference_router.receipts import record
from services.inference_router.requests import CallBody, RequestMaker, impatient, read_call_body
from services.inference_router.revisions import DEFAULT_WAIT, wait_for
from services.inference_router.routing import ATTEMPT_CAP
from services.inference_router.slots import QUEUE_LIMIT
from services.inference_router.snapshot import Candidate
from services.inference_router.upstream import UpstreamClient
from services.inference_router.upstream_timers import CallTimers
from services.inference_router.upstream_types import Timers, UpstreamRequest
from services.runtime.exchange import Call, Outcome, Route, Sink
from services.runtime.tracing import Trace, Tracer


@dataclass(frozen=True, slots=True)
class Figures:
    """Timers of calls where a provider has none of its own, in seconds."""

    total: float = 1800.0
    timers: Timers = field(default_factory=Timers)
    request_headers: frozenset[bytes] | None = None
    """The only header fields of a caller that pass, in lower case; None: all that may."""
    ping_seconds: float | None = None
    """After how long a silence an event stream gets a comment; None: never."""
    queue_limit: int = QUEUE_LIMIT
    """Calls that may wait for one provider whose ``max_concurrency`` is reached."""


class Router:
    """Serves calls. Made and used inside one running event loop; implements ``Invoker``."""

    def __init__(
        self,
        keeper: CatalogKeeper,
        client: UpstreamClient,
        figures: Figures,
        *,
        seed: Callable[[], int] = lambda: random.getrandbits(64),
        permissions: Permissions | None = None,
        whole: Callable[[], bool] = lambda: True,
    ) -> None:
        """``whole`` tells whether the catalog is: before that nothing can be said not to exist."""
        self._whole = whole
        self._keeper = keeper
        self.permissions = permissions or Permissions(keeper)
        self._client = client
        self._figures = figures
        self._requests = RequestMaker(figures.timers, figures.request_headers)
        self._seed = seed
        self._loop = asyncio.get_running_loop()
        self._timers = CallTimers(self._loop)
        self._resolved: dict[tuple[Route, str, str], resolution.Resolution] = {}
        """By what a call names; bounded by the catalog, as only names that resolve are kept."""
        self._resolved_at = -1
        self.ledger = Ledger(self._loop.time, queue_limit=figures.queue_limit)
        self.flights = Flights()
        self.tracer: Tracer | None = None
        """None: nothing is traced."""
        self.limits: CallLimits | None = None
        """None: no limit of a key or workspace holds but ``concurrency`` of keys."""

    async def invoke(self, call: Call, sink: Sink) -> Outcome:
        """Serve one call into ``sink``; see :class:`services.runtime.exchange.Invoker`."""
        flight = self.flights.begin(call)
        if self.tracer is not None:
            flight.trace = self.tracer.begin(call)
        try:
            caller = self.permissions.known(call) or await self.permissions.admit(call)
            if caller.limits.concurrency is None:
                outcome = await self._serve(call, sink, flight, caller)
            else:
                with self.permissions.slot(caller):
                    outcome = await self._serve(call, sink, flight, caller)
        except BaseException as error:
            unknown = isinstance(error, NotFound) and not self._whole()
            told = NotReady("The router has no catalog yet", retry_after=1.0) if unknown else error
            if self.limits is not None and flight.hold is not None:
                self.limits.settle(flight.hold, flight.attempts, None)
            self.flights.fail(flight, told)
            if told is error:
                raise
            raise told from None
        if self.limits is not None and flight.hold is not None:
            self.limits.settle(flight.hold, flight.attempts, outcome)
        self.flights.end(flight, outcome)
        return outcome

    async def _serve(self, call: Call, sink: Sink, flight: Flight, caller: Caller) -> Outcome:
        started = self._loop.time()
        if call.min_revision:
            await self._catch_up(call)
        if call.route is Route.PROVIDER:
            plan, observer, total = self._pinned(call, caller)
        else:
            body = read_call_body(call) if len(call.body) <= LARGE else await asyncio.to_thread(read_call_body, call)
            flight.streams = body.facts is not None and body.facts.stream
            plan, observer, total = self._routed(call, body, flight, caller)
        flight.observer = observer
        observer.until = started + total
        if call.may_ping:
            plan.ping_seconds = self._figures.ping_seconds
        if flight.trace is not None:
            _trace_attempts(plan, call, flight.trace)
        hold = None
        if self.limits is not None and self.limits.concern(caller):
            workspace = flight.virtual_model.partition("/")[0] or call.workspace
            hold = flight.hold = await self.limits.admit(call, caller, workspace, plan.candidates[0])
        attempts = flight.attempts = Attempts(self._client, sink, observer)
        if hold is not None:
            attempts.told = hold.told
        if plan.receipt is not None:
            attempts.write(plan.receipt)
        timer = self._timers.start(started + total)
        try:
            return await attempts.run(plan)
        except asyncio.CancelledError:
            if not timer.took():
                raise
            return attempts.expire(f"The call took longer than its limit of {total:g} s.")
        finally:
            self._timers.stop(timer)

    async def _catch_up(self, call: Call) -> None:
        """Wait for what ``min_revision`` demands, and for what a provider that was written then is about to serve."""
        until = self._loop.time() + (DEFAULT_WAIT if call.timeout is None else call.timeout)
        since = (await wait_for(self._keeper, call.min_revision, call.timeout)).get("provider_registry")
        if since is None or call.route is Route.PROVIDER:
            return
        model = call.name
        if call.route is not Route.MODEL:
            model = (await asyncio.to_thread(read_call_body, call)).model or ""
        workspaces = {call.workspace, names.split(model)[0]} if "/" in model else {call.workspace}

        def resolves() -> bool:
            try:
                self._resolve(call, model)
            except (NotFound, Unavailable, CredentialUnavailable):
                return False
            return True

        await Discoveries(self._keeper, workspaces, since).settle(resolves, max(0.0, until - self._loop.time()))

    def conditions(self, session: str, *, turn: int) -> routing.Conditions:
        """Gather all that the order of candidates depends on."""
        return routing.Conditions(
            seed=self._seed(),
            turn=turn,
            session=session,
            loads=self.ledger.loads,
            out=self.ledger.out(),
            full=self.ledger.slots.full,
        )

    def _routed(self, call: Call, body: CallBody, flight: Flight, caller: Caller) -> tuple[Plan, Observer, float]:
        """Plan a call by model."""
        if caller is NOBODY:
            found = self._resolve(call, body.model)
        else:
            found = self.permissions.resolve(caller, call, body.model, lambda: self._resolve(call, body.model))
        virtual_model = found.virtual_model
        flight.virtual_model = ref = names.join(virtual_model.workspace, virtual_model.name)
        turn = self.ledger.turn(ref)
        conditions = None
        if call.want_receipt or not found.single:  # gathering them costs more than all else that is decided here
            conditions = self.conditions(call.session, turn=turn)
        ordered = found.groups[0].candidates if conditions is None else routing.order(found, conditions)
        plan = Plan(
            candidates=ordered,
            request_for=lambda candidate: self._requests.routed(call, body, candidate),
            rewrites=True,
            method=call.method,
            retry=virtual_model.retry,
            cap=ATTEMPT_CAP,
            large=len(call.body) > LARGE,
            current=self._current,
        )
        if call.want_receipt:
            said = decision(self.ledger, self._keeper, found, ordered)
            plan.receipt = record(call.request_id, said, found, conditions)
        observer = Observed(self.ledger, ref, impatient=impatient(call))
        return plan, observer, self._total(call, ordered[0])

    def _current(self, candidate: Candidate) -> Candidate | None:
        """Look a candidate up again: while the ones before it were tried, an operator may have changed it."""
        provider = self._keeper.catalog.providers.get((candidate.provider.workspace, candidate.provider.name))
        if provider is candidate.provider:
            return candidate
        if provider is None:
            return None
        changed = replace(candidate, provider=provider)
        return None if resolution.refusal(changed) else changed

    def _resolve(self, call: Call, model: str | None) -> resolution.Resolution:
        """Resolve a name, or take what it led to since the catalog last changed: names are few, calls are many."""
        if self._resolved_at != self._keeper.changes:
            self._resolved_at = self._keeper.changes
            self._resolved.clear()
        name = call.name if call.route is Route.MODEL else model or ""
        key = (call.route, call.workspace, name)
        found = self._resolved.get(key)
        if found is None:
            found = resolution.resolve(self._keeper.catalog, call.route, call.workspace, name=call.name, model=model)
            self._resolved[key] = found
        return found

    def _pinned(self, call: Call, caller: Caller) -> tuple[Plan, Observer, float]:
        """Plan a call by provider: one attempt, the provider's own answer, nothing learned from it."""
        provider = self.permissions.provider(caller, call)
        candidate = Candidate(provider, "", "")
        plan = Plan(
            candidates=(candidate,),
            request_for=lambda chosen: self._requests.pinned(call, chosen.provider),
            rewrites=False,
            method=call.method,
            cap=1,
            large=len(call.body) > LARGE,
        )
        if call.want_receipt:
            plan.receipt = record(call.request_id, pinned_decision(self.ledger, self._keeper, provider), None, None)
        return plan, Counted(self.ledger), self._total(call, candidate)

    def _total(self, call: Call, first: Candidate) -> float:
        limit = first.provider.timeouts.total or self._figures.total
        return limit if call.timeout is None else min(limit, call.timeout)


def _trace_attempts(plan: Plan, call: Call, trace: Trace) -> None:
    """Have the request of each attempt say which span it belongs to."""
    make = plan.request_for

    def request_for(candidate: Candidate) -> UpstreamRequest:
        trace.attempt(call, candidate.provider.ref, candidate.upstream_id)
        return make(candidate)

    plan.request_for = request_for
