"""What limits cost a request in one process: ``python -m benchmarks.limits``. No network, one core.

Measured is all that the router does for them: whether they concern the call, what it is expected to use, reserving it,
the header fields of the answer, and settling.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Callable, Coroutine
from typing import Any

from services.access.identity import Caller, Identity, Kind, Limits
from services.inference_router.limits import Limiter
from services.inference_router.limits_calls import CallLimits, expected_tokens
from services.runtime.exchange import Call, Route

ROUNDS, TIMES = 15, 20_000
PLENTY = 10**12
BODY = json.dumps({"model": "m", "max_tokens": 256, "messages": [{"role": "user", "content": "x" * 800}]}).encode()


def drive(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("it waited")


def median(work: Callable[[], object]) -> float:
    """Return the median of the rounds, microseconds of this thread each time."""
    taken = []
    for _ in range(ROUNDS):
        started = time.thread_time()
        for _ in range(TIMES):
            work()
        taken.append((time.thread_time() - started) / TIMES * 1e6)
    return statistics.median(taken)


async def main() -> None:
    """Measure and print."""
    limits = CallLimits(Limiter())
    call = Call(Route.PLAIN, "default", "", "POST", b"chat/completions", body=BODY)
    candidate: Any = None
    free = Caller(Identity(Kind.KEY, "free"))
    requests = Caller(Identity(Kind.KEY, "requests"), limits=Limits(requests_per_minute=PLENTY))
    both = Caller(Identity(Kind.KEY, "both"), limits=Limits(requests_per_minute=PLENTY, tokens_per_minute=PLENTY))

    def one(caller: Caller) -> Callable[[], None]:
        def work() -> None:
            if limits.concern(caller):
                hold = drive(limits.admit(call, caller, "default", candidate))
                limits.limiter.settle(hold, requests=1, tokens=300, cost=0)

        return work

    empty = median(lambda: None)
    print(f"no limits                       {median(one(free)) - empty:6.2f} µs a request")
    print(f"requests a minute               {median(one(requests)) - empty:6.2f} µs")
    print(f"requests and tokens a minute    {median(one(both)) - empty:6.2f} µs")
    print(
        f"of it reading max_tokens        {median(lambda: expected_tokens(call)) - empty:6.2f} µs ({len(BODY)} bytes)"
    )
    limits.limiter.workspaces = {"default": Limits(requests_per_minute=PLENTY, tokens_per_minute=PLENTY)}
    print(f"both of key and workspace       {median(one(both)) - empty:6.2f} µs")


if __name__ == "__main__":
    asyncio.run(main())
