"""The deadline wheel: moved deadlines hold, forgotten ones leave nothing."""

from __future__ import annotations

import asyncio
from math import inf

from services.inference_router.upstream_timers import DeadlineWheel
from tests.upstream import PATIENCE


class Item:
    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.alarm = inf
        self.expired = asyncio.Event()
        self.early = False

    def expire(self) -> None:
        self.early = asyncio.get_running_loop().time() < self.deadline - 0.002  # the loop's own resolution
        self.expired.set()


async def test_a_deadline_moved_later_without_the_wheel_still_fires_and_not_early() -> None:
    loop = asyncio.get_running_loop()
    wheel = DeadlineWheel(loop)
    item, forgotten = Item(loop.time() + 0.05), Item(loop.time() + 0.05)
    wheel.watch(item)
    wheel.watch(forgotten)
    wheel.forget(forgotten)
    item.deadline += 0.3
    async with asyncio.timeout(PATIENCE):
        await item.expired.wait()
    assert not item.early
    assert not forgotten.expired.is_set()
    assert (item.alarm, forgotten.alarm) == (inf, inf)
    wheel.close()
