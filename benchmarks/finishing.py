"""What the end of a request costs, each part alone: ``python -m benchmarks.finishing``. Microseconds of processor time.

A request that went well, whole, with tokens reported: the common one. Best of five runs, as the machine is shared.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import timeit
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from gateway_http.ends import Ends
from services.inference_router.flights import Flights
from services.runtime.exchange import Attempt, Call, Outcome, Route, Usage, Verdict
from services.runtime.inference_metrics import InferenceMetrics
from services.runtime.request_log import RequestLog
from services.runtime.telemetry import JsonFormatter, Redactor
from services.runtime.tracing import Tracer

RUNS, TIMES = 5, 200_000
HEADERS = [(b"content-type", b"application/json"), (b"accept", b"*/*"), (b"user-agent", b"openai"), (b"x-a", b"b")]


def a_call(number: int = 0) -> Call:
    """A chat on plain /v1."""
    request_id = f"req-8d33b9e76b78245f-{number:x}"
    return Call(Route.PLAIN, "default", "", "POST", b"v1/chat/completions", headers=HEADERS, request_id=request_id)


TRIED = (Attempt("default/p", 200, "", 3.2),)
OUTCOME = Outcome(Verdict.COMPLETE, None, TRIED, Usage(100, 20, None, None), 0.0032, 0.0034)
CANDIDATE = SimpleNamespace(provider=SimpleNamespace(ref="default/p"), entity="default/chat", upstream_id="vendor/m")
ANSWER = SimpleNamespace(status=200, committed=True, streams=False, first_byte_at=time.perf_counter())
ATTEMPTS: Any = SimpleNamespace(candidate=CANDIDATE, answer=ANSWER, done=TRIED, connecting=0.0)
OBSERVER: Any = SimpleNamespace(waited=0.0)


def one_call(flights: Flights, call: Call) -> Callable[[], None]:
    """Begin and end a call, as the router does."""

    def run() -> None:
        flight = flights.begin(call)
        flight.attempts, flight.observer, flight.virtual_model = ATTEMPTS, OBSERVER, "default/chat"
        flights.end(flight, OUTCOME)

    return run


def microseconds(run: Callable[[], None]) -> float:
    """Return what a call of ``run`` takes, at best."""
    return min(timeit.repeat(run, number=TIMES, repeat=RUNS, timer=time.process_time)) / TIMES * 1e6


def of_the_edge() -> float:
    """Return what the edge's own figures take."""
    ends, call = Ends(), a_call()

    def run() -> None:
        trace = ends.begin(call)
        ends.end(call, trace, started=0.0, status=200, gone=False)

    return microseconds(run)


def of_tracing() -> float:
    """Return what it takes to decide on a trace, one in a hundred taken and its spans made."""
    flights, tracer = Flights(), Tracer(lambda _: None, ratio=0.01)
    flights.hooks.add(tracer)
    calls = [a_call(number) for number in range(1000)]
    numbers = iter(range(RUNS * TIMES))

    def run() -> None:
        call = calls[next(numbers) % 1000]
        call.headers = HEADERS
        flight = flights.begin(call)
        flight.trace = trace = tracer.begin(call)
        if trace is not None:
            trace.attempt(call, "default/p", "vendor/m")
        flight.attempts, flight.observer, flight.virtual_model = ATTEMPTS, OBSERVER, "default/chat"
        flights.end(flight, OUTCOME)

    return microseconds(run)


async def of_lines() -> float:
    """Return what a line for each call takes, its thread's part included."""
    flights = Flights()
    with open(os.devnull, "w") as nowhere:  # noqa: ASYNC230 - nothing else runs
        handler = logging.StreamHandler(nowhere)
        handler.setFormatter(JsonFormatter(Redactor()))
        log = RequestLog(handler)
        flights.hooks.add(log)
        run = one_call(flights, a_call())
        best = float("inf")
        for _ in range(RUNS):
            began = time.process_time()
            for number in range(TIMES // 2):
                run()
                if number % 5000 == 0:
                    await log.stop()
            await log.stop()
            best = min(best, (time.process_time() - began) / (TIMES // 2) * 1e6)
    return best


def main() -> None:
    """Measure, and print a table."""
    bare = microseconds(one_call(Flights(), a_call()))
    telling, counting = Flights(), Flights()
    telling.hooks.add(lambda _: None)
    counting.hooks.add(InferenceMetrics())
    told, counted = microseconds(one_call(telling, a_call())), microseconds(one_call(counting, a_call()))
    edge = of_the_edge()
    lines = asyncio.run(of_lines())
    traced = of_tracing()
    for what, cost in (
        ("that a call runs and has ended", bare),
        ("telling what happened", told - bare),
        ("metrics of the router", counted - told),
        ("metrics of the edge", edge),
        ("by default, together", counted + edge),
        ("a log line", lines - told),
        ("a trace for one in a hundred", traced - told),
    ):
        print(f"{what:34} {cost:6.2f} µs")


if __name__ == "__main__":
    main()
