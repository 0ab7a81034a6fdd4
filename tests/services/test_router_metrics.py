"""What a router tells of itself at a scrape: calls under way, queues, candidates that are out, models nobody serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from services.inference_router.ejection import FAULTS_TO_EJECT
from services.inference_router.router_metrics import RouterMetrics
from services.runtime.metrics import render
from tests.router_bench import Bench, Recorder, benches, openai
from tests.upstream import PATIENCE, Hang, Json, ScriptedUpstream, Status

OK = Json(200, {"model": "vendor/m"})


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with benches() as running:
        yield running
        await running.idle()


def told(metrics: RouterMetrics) -> dict[str, float]:
    lines = [line for line in render(metrics.families()).splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


async def test_calls_streams_and_queues_are_read_off_now(bench: Bench, upstream: ScriptedUpstream) -> None:
    metrics = RouterMetrics(bench.router, bench.keeper)
    upstream.always(Hang("middle"))
    bench.provider("p0", upstream.url, max_concurrency=1)
    bench.model()
    assert told(metrics)["junctor_requests_in_flight"] == 0
    first, second = Recorder(), Recorder()
    tasks = [asyncio.create_task(bench.router.invoke(openai(), sink)) for sink in (first, second)]
    await first.began.wait()
    await until(lambda: told(metrics).get('junctor_queue_length{provider="default/p0"}') == 1)
    now = told(metrics)
    assert now["junctor_streams_in_flight"] == 1
    assert now['junctor_requests_in_flight{provider="default/p0"}'] == 2
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    after = told(metrics)
    assert after["junctor_streams_in_flight"] == after['junctor_queue_length{provider="default/p0"}'] == 0
    cancelled = [name for name in after if name.startswith("junctor_requests_total") and '"cancelled"' in name]
    assert sum(after[name] for name in cancelled) == 2
    assert after['junctor_queue_wait_seconds_count{provider="default/p0"}'] == 1


async def test_an_ejection_is_counted_and_a_model_without_anybody_is_named(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    metrics = RouterMetrics(bench.router, bench.keeper)
    bench.in_turn(upstream.url)
    upstream.always(Status(500))
    before = told(metrics)
    assert before["junctor_unserved_models"] == 0
    for _ in range(FAULTS_TO_EJECT):
        await bench.ask()
    now = told(metrics)
    labels = 'provider="default/p0",model="vendor/m"'
    assert now[f"junctor_ejections_total{{{labels}}}"] == 1
    assert now[f'junctor_candidate_out{{{labels},reason="ejected"}}'] == 1
    assert now["junctor_unserved_models"] == now['junctor_model_unserved{virtual_model="default/chat"}'] == 1
    bench.router.ledger.reset("default/p0")
    assert told(metrics)["junctor_unserved_models"] == 0


async def test_a_model_whose_provider_goes_is_unserved(bench: Bench, upstream: ScriptedUpstream) -> None:
    metrics = RouterMetrics(bench.router, bench.keeper)
    upstream.always(OK)
    bench.in_turn(upstream.url)
    await bench.ask()
    assert told(metrics)["junctor_unserved_models"] == 0
    bench.keeper.remove_provider(("default", "p0"))
    now = told(metrics)
    assert now["junctor_unserved_models"] == 1
    assert now["junctor_catalog_providers"] == 0
    assert not [name for name in now if name.startswith("junctor_ejections_total")]
