"""The total timers of calls: they cancel their own call, own up to it, and serve the next call."""

from __future__ import annotations

import asyncio

from services.inference_router.upstream_timers import CallTimers
from tests.upstream import PATIENCE


async def serve(timers: CallTimers, seconds: float, until: asyncio.Event) -> str:
    timer = timers.start(asyncio.get_running_loop().time() + seconds)
    try:
        await until.wait()
    except asyncio.CancelledError:
        if not timer.took():
            raise
        return "expired"
    finally:
        timers.stop(timer)
    return "served"


async def test_a_call_is_ended_at_its_deadline_and_its_task_goes_on() -> None:
    timers = CallTimers(asyncio.get_running_loop())
    task = asyncio.create_task(serve(timers, 0.05, asyncio.Event()))
    assert await asyncio.wait_for(task, PATIENCE) == "expired"
    assert not task.cancelled()
    assert task.cancelling() == 0


async def test_a_timer_that_served_a_short_call_does_not_end_the_next() -> None:
    timers = CallTimers(asyncio.get_running_loop())
    done = asyncio.Event()
    done.set()
    assert await serve(timers, 0.05, done) == "served"
    later, watch = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(serve(timers, 100, later))
    short = asyncio.create_task(serve(timers, 0.2, watch))  # ends after the first one's deadline
    assert await asyncio.wait_for(short, PATIENCE) == "expired"
    assert not task.done()
    later.set()
    assert await asyncio.wait_for(task, PATIENCE) == "served"


async def test_a_call_that_its_caller_cancels_is_cancelled() -> None:
    timers = CallTimers(asyncio.get_running_loop())
    task = asyncio.create_task(serve(timers, 100, asyncio.Event()))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task}, timeout=PATIENCE)
    assert task.cancelled()


async def test_a_caller_that_leaves_in_the_moment_of_expiry_is_heeded() -> None:
    timers = CallTimers(asyncio.get_running_loop())
    started = asyncio.Event()

    async def serve_and_tell() -> str:
        timer = timers.start(asyncio.get_running_loop().time() + 100)
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not timer.took():
                raise
        return "expired"

    task = asyncio.create_task(serve_and_tell())
    await started.wait()
    for timer in tuple(item for slot in timers._wheel._slots.values() for item in slot):
        timer.expire()
    task.cancel()
    await asyncio.wait({task}, timeout=PATIENCE)
    assert task.cancelled()
