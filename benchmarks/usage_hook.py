"""What a record of usage costs on the path of a request: tells nanoseconds a call, of 20 rounds."""

from __future__ import annotations

import asyncio
import statistics
from time import perf_counter_ns
from typing import Any

from services.inference_router.usage_reporter import UsageReporter
from services.runtime.exchange import Attempt, Call, Route, Usage
from services.runtime.finished import Finished

ROUNDS, CALLS = 20, 50_000


async def main() -> None:
    async def take(_: Any) -> None: ...

    call = Call(Route.PLAIN, "default", "", "POST", b"v1/chat/completions", body=b"{}", request_id="r")
    usage = Usage(10, 20, None, None)
    finished = Finished(call, "default/m", "default/m", "default/p", "m", False, 200, "complete", usage=usage)
    finished = Finished(
        *(call, "default/m", "default/m", "default/p", "m", False, 200, "complete", "", None),
        (Attempt("default/p", 200, "", 1.0),),
        usage,
    )
    took = []
    for _ in range(ROUNDS):
        reporter = UsageReporter(take)
        began = perf_counter_ns()
        for _ in range(CALLS):
            reporter(finished)
        took.append((perf_counter_ns() - began) / CALLS)
    print(f"{statistics.median(took):.0f} ns a request (least {min(took):.0f})")


if __name__ == "__main__":
    asyncio.run(main())
