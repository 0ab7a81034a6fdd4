"""What a caller sees of every fault that a provider can have: on each route, and with a healthy provider beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.inference_router.upstream_types import Timers
from tests.faults import FAULTS, markdown_table
from tests.router_bench import CALLS, benches, by_model
from tests.upstream import Json, ScriptedUpstream

ROOT = Path(__file__).parents[2]
QUICK = Timers(connect=5, first_byte=0.3, idle=0.3)
PATIENT = Timers(connect=10, first_byte=20, idle=20)


def timers_for(name: str) -> Timers:
    return QUICK if "silent" in name else PATIENT


@pytest.mark.parametrize("route", CALLS)
@pytest.mark.parametrize("name", FAULTS)
async def test_the_caller_sees_the_truth(upstream: ScriptedUpstream, name: str, route: str) -> None:
    behaviour, routed, pinned, _ = FAULTS[name]
    if behaviour is None:
        await upstream.refuse()
    else:
        upstream.script(behaviour)
    async with benches(timers_for(name)) as bench:
        bench.in_turn(upstream.url)
        assert await bench.result(CALLS[route]()) == (pinned if route == "provider" else routed)
        await bench.idle()
        assert len(upstream.requests) == (0 if behaviour is None else 1)


@pytest.mark.parametrize("name", FAULTS)
async def test_another_provider_is_tried_where_it_may_do_better(upstream: ScriptedUpstream, name: str) -> None:
    behaviour, routed, _, tries_another = FAULTS[name]
    if behaviour is None:
        await upstream.refuse()
    else:
        upstream.script(behaviour)
    async with (
        ScriptedUpstream(default=Json(200, {"model": "vendor/m", "id": "other"})) as other,
        benches(timers_for(name)) as bench,
    ):
        bench.in_turn(upstream.url, other.url)
        if not tries_another:
            assert await bench.result(by_model()) == routed
            assert other.requests == []
            return
        sink = await bench.ask(by_model())
        assert sink.outcome is not None
        assert [(attempt.provider, bool(attempt.failure)) for attempt in sink.outcome.attempts] == [
            ("default/p0", True),
            ("default/p1", False),
        ]
        assert json.loads(sink.body) == {"model": "default/chat", "id": "other"}
        assert sink.got is not None
        assert (sink.got.provider, sink.got.attempts) == ("default/p1", 2)


def test_the_table_is_long_enough_and_the_documented_one() -> None:
    assert len(FAULTS) >= 60
    assert (ROOT / "docs" / "faults.md").read_text().endswith("\n\n" + markdown_table())
