"""GetActivity: the calls under way and the numbers of those that have ended, as far as a caller may see them.

Read off at the call from what the router keeps anyway, so requests pay nothing for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from junctor import names
from junctor.v1 import inference_router_pb2 as pb
from services.access.identity import Caller, Kind
from services.access.roles import Permission
from services.inference_router.flights import Flight, Flights
from services.runtime.finished import KINDS
from services.runtime.inference_metrics import InferenceMetrics

MOST = 200
"""Calls that one answer tells of, the longest under way first."""


class Activity:
    """What one router does now. ``flights`` are its calls, ``counted`` the numbers of those that have ended."""

    def __init__(self, flights: Flights, counted: InferenceMetrics) -> None:
        self._flights = flights
        self._counted = counted

    def told(self, caller: Caller, workspace: str) -> pb.GetActivityResponse:
        """Return the caller's own calls, and all of ``workspace`` (empty or ``-``: any) that it manages."""
        asked = "" if workspace == names.ALL_WORKSPACES else workspace
        now = time.perf_counter()
        seen = [flight for flight in self._flights if _sees(caller, flight, asked)]
        seen.sort(key=lambda flight: flight.started)
        answer = pb.GetActivityResponse(
            calls=[_call(flight, now) for flight in seen[:MOST]],
            total_calls=len(seen),
            counts=self._counts(caller, asked),
        )
        answer.time.GetCurrentTime()
        return answer

    def _counts(self, caller: Caller, asked: str) -> Iterator[pb.ActivityCount]:
        for (model, provider), (requests, failed) in sorted(self._counted.totals().items()):
            workspace = (model or provider).partition("/")[0]
            if workspace and asked in ("", workspace) and caller.may(Permission.MANAGE, workspace):
                yield pb.ActivityCount(model=model, provider=provider, requests=requests, failed=failed)


def _sees(caller: Caller, flight: Flight, asked: str) -> bool:
    workspace = _workspace(flight)
    if asked not in ("", workspace):
        return False
    return _owns(caller, flight) or caller.may(Permission.MANAGE, workspace)


def _owns(caller: Caller, flight: Flight) -> bool:
    of = flight.call.principal
    known = caller.identity.kind is not Kind.ANONYMOUS and isinstance(of, Caller)
    return known and of.principal == caller.principal


def _workspace(flight: Flight) -> str:
    return flight.virtual_model.partition("/")[0] or flight.call.workspace


def _call(flight: Flight, now: float) -> pb.ActiveCall:
    call = flight.call
    attempts = flight.attempts
    return pb.ActiveCall(
        request_id=call.request_id,
        workspace=_workspace(flight),
        model=flight.virtual_model,
        provider=flight.provider,
        kind=KINDS.get(call.path, "other"),
        stream=flight.streams,
        streaming=flight.streaming,
        seconds=now - flight.started,
        failed_attempts=sum(bool(one.failure) for one in attempts.done) if attempts is not None else 0,
        principal=call.principal.principal if isinstance(call.principal, Caller) else "",
    )
