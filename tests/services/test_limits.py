"""Limits of keys and workspaces within one router: what is reserved, what is settled, what is refused and how."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from gateway_http import answers
from junctor.errors import LimitExceeded
from junctor.status import from_status, to_status
from junctor.v1 import access_pb2, usage_pb2
from services.access.identity import Budget, Caller, Identity, Kind, Limits
from services.inference_router.limits import Limiter
from services.inference_router.limits_calls import OUTPUT_TOKENS, CallLimits, expected_tokens
from services.inference_router.limits_prices import Prices
from services.inference_router.limits_told import FIELDS, duration
from services.inference_router.limits_windows import Period, bounds
from services.runtime.exchange import Call, Route
from tests.router_bench import Bench, Recorder, benches, by_provider, openai
from tests.upstream import CLOSE, PATIENCE, Close, Hang, Json, ScriptedUpstream, Sse, Status

NOW = datetime(2026, 3, 31, 23, 59, 20, tzinfo=UTC).timestamp()
USAGE = {"prompt_tokens": 7, "completion_tokens": 3}
WHOLE = Json(200, {"model": "vendor/m", "usage": USAGE})
BODY = {"model": "default/chat", "messages": [], "max_tokens": 50}


class Clock:
    """The time that windows go by."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def bench(clock: Clock) -> AsyncIterator[Bench]:
    async with benches() as running:
        running.router.limits = CallLimits(Limiter(clock=clock))
        yield running
        await running.idle()


def limited(bench: Bench, **limits: object) -> Limiter:
    assert bench.router.limits is not None
    limiter = bench.router.limits.limiter
    limiter.workspaces = {"default": Limits(**limits)}  # type: ignore[arg-type]
    return limiter


def left(limiter: Limiter, unit: str, subject: str = "workspace:default") -> int:
    windows = limiter._subjects[subject].windows
    return next(window.left for window in windows if window.unit.name == unit)


def key(name: str = "key-1", **limits: object) -> Caller:
    return Caller(Identity(Kind.KEY, name), limits=Limits(**limits))  # type: ignore[arg-type]


def expected(body: object = BODY) -> int:
    return sum(expected_tokens(openai(body)))


PERIODS = {
    "minute": (Period.MINUTE, "2026-03-31T23:59:00", "2026-04-01T00:00:00"),
    "day": (Period.DAY, "2026-03-31T00:00:00", "2026-04-01T00:00:00"),
    "month": (Period.MONTH, "2026-03-01T00:00:00", "2026-04-01T00:00:00"),
}


@pytest.mark.parametrize("period", PERIODS)
def test_windows_are_aligned_to_utc(period: str) -> None:
    kind, start, end = PERIODS[period]
    assert [datetime.fromtimestamp(at, UTC).isoformat()[:19] for at in bounds(kind, NOW)] == [start, end]


def test_the_month_of_december_ends_with_the_year() -> None:
    assert (
        datetime.fromtimestamp(bounds(Period.MONTH, datetime(2026, 12, 9, tzinfo=UTC).timestamp())[1], UTC).year == 2027
    )


DURATIONS = {0: b"0s", 0.2: b"1s", 59: b"59s", 60: b"1m0s", 360: b"6m0s", 3600: b"1h0m0s", 90061: b"25h1m1s"}


@pytest.mark.parametrize("seconds", DURATIONS)
def test_durations_are_written_as_go_does(seconds: float) -> None:
    assert duration(seconds) == DURATIONS[seconds]


EXPECTED: dict[str, tuple[bytes, bytes, tuple[int, int]]] = {
    "max_tokens": (b'{"max_tokens": 5}', b"chat/completions", (5, 5)),
    "max_completion_tokens": (b'{"max_completion_tokens":12}', b"chat/completions", (7, 12)),
    "max_output_tokens": (b'{"max_output_tokens":\n9}', b"responses", (6, 9)),
    "the largest": (b'{"max_tokens":1,"x":{"max_tokens":8}}', b"chat/completions", (10, 8)),
    "in a text": (b'{"x":"\\"max_tokens\\": 3"}', b"chat/completions", (7, OUTPUT_TOKENS)),
    "not given": (b'{"a":1}', b"chat/completions", (2, OUTPUT_TOKENS)),
    "embeddings": (b'{"a":1}', b"embeddings", (2, 0)),
    "no body": (b"", b"models", (0, 0)),
}


@pytest.mark.parametrize("case", EXPECTED)
def test_what_a_call_is_expected_to_use(case: str) -> None:
    body, path, tokens = EXPECTED[case]
    assert expected_tokens(Call(Route.PLAIN, "default", "", "POST", path, body=body)) == tokens


async def test_requests_of_a_minute_are_counted_exactly_and_anew_in_the_next(
    bench: Bench, upstream: ScriptedUpstream, clock: Clock
) -> None:
    bench.in_turn(upstream.url)
    upstream.always(WHOLE)
    limited(bench, requests_per_minute=20)
    ended = await asyncio.gather(*(bench.result(openai()) for _ in range(50)))
    assert (ended.count("200 complete"), ended.count("LIMIT_EXCEEDED")) == (20, 30)
    assert len(upstream.requests) == 20
    clock.now += 40
    assert await bench.result(openai()) == "200 complete"


async def test_a_refused_call_says_what_was_used_of_what_and_when_there_is_more(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    bench.in_turn(upstream.url)
    upstream.always(WHOLE)
    limited(bench, requests_per_minute=1, tokens_per_minute=1000)
    sink = await bench.ask(openai(BODY))
    told = dict(field for field in sink.got.headers if field[0] in FIELDS) if sink.got else {}
    assert told == {
        b"x-ratelimit-limit-requests": b"1",
        b"x-ratelimit-remaining-requests": b"0",
        b"x-ratelimit-reset-requests": b"40s",
        b"x-ratelimit-limit-tokens": b"1000",
        b"x-ratelimit-remaining-tokens": b"%d" % (1000 - expected()),
        b"x-ratelimit-reset-tokens": b"40s",
    }
    with pytest.raises(LimitExceeded) as refused:
        await bench.ask(openai(BODY))
    said = refused.value.metadata
    assert (said["limit"], said["allowed"], said["used"], said["reset"]) == ("requests_per_minute", "1", "1", "40")
    response = answers.failure(refused.value, openai(BODY))
    fields = dict(response.headers)
    assert (response.status, fields[b"retry-after"]) == (429, b"40")
    assert fields[b"x-ratelimit-remaining-requests"] == b"0"
    assert fields[b"x-ratelimit-remaining-tokens"] == b"990"  # ten of those reserved were used
    assert json.loads(response.body)["error"]["code"] == "rate_limit_exceeded"
    back = from_status(to_status(refused.value))
    assert isinstance(back, LimitExceeded)
    assert (back.metadata["reset"], back.retry_after) == ("40", 40.0)


async def test_a_providers_own_fields_of_limits_pass_only_to_callers_without_limits(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    bench.in_turn(upstream.url)
    upstream.always(Json(200, {"usage": USAGE}, headers=[("x-ratelimit-limit-tokens", "77")]))
    field = b"x-ratelimit-limit-tokens"
    assert (await bench.ask(openai())).header(field) == b"77"
    limited(bench, tokens_per_minute=5000)
    assert (await bench.ask(openai())).header(field) == b"5000"


ENDS: dict[str, tuple[object, int, int]] = {
    "reported": (WHOLE, 1, 10),
    "reported by a stream": (Sse([json.dumps({"choices": [], "usage": USAGE})]), 1, 10),
    "reported by a broken stream": (Sse([json.dumps({"usage": USAGE}), CLOSE]), 1, 10),
    "not reported": (Json(200, {"model": "vendor/m"}), 1, expected()),
    "broken without a report": (Sse([json.dumps({"choices": []}), CLOSE]), 1, expected()),
    "a provider's error": (Status(400), 1, 0),
    "a provider's fault": (Status(500), 1, 0),
    "closed before an answer": (Close(), 1, expected_tokens(openai(BODY))[0]),
}


@pytest.mark.parametrize("case", ENDS)
async def test_what_was_used_is_settled_however_a_call_ends(
    bench: Bench, upstream: ScriptedUpstream, case: str
) -> None:
    behaviour, requests, tokens = ENDS[case]
    bench.in_turn(upstream.url)
    upstream.always(behaviour)  # type: ignore[arg-type]
    limiter = limited(bench, requests_per_minute=10, tokens_per_minute=1000)
    await bench.result(openai(BODY))
    assert (10 - left(limiter, "REQUESTS"), 1000 - left(limiter, "TOKENS")) == (requests, tokens)


async def test_nothing_is_used_where_no_provider_was_reached(bench: Bench, upstream: ScriptedUpstream) -> None:
    await upstream.refuse()
    bench.in_turn(upstream.url)
    limiter = limited(bench, requests_per_minute=1, tokens_per_minute=1000)
    for _ in range(3):
        assert await bench.result(openai(BODY)) == "UPSTREAM_UNREACHABLE"
    assert (left(limiter, "REQUESTS"), left(limiter, "TOKENS")) == (1, 1000)


async def test_a_cancelled_call_is_settled(bench: Bench, upstream: ScriptedUpstream) -> None:
    bench.in_turn(upstream.url)
    upstream.always(Hang())
    limiter = limited(bench, requests_per_minute=9, tokens_per_minute=1000, concurrency=1)
    call = asyncio.ensure_future(bench.router.invoke(openai(BODY), Recorder()))
    await upstream.request()
    assert 1000 - left(limiter, "TOKENS") == expected()
    with pytest.raises(LimitExceeded, match="at the same time"):
        await bench.ask(openai(BODY))
    call.cancel()
    await asyncio.wait([call], timeout=PATIENCE)
    assert 1000 - left(limiter, "TOKENS") == expected_tokens(openai(BODY))[0]
    assert limiter._subjects["workspace:default"].running == 0


async def test_names_that_do_not_route_use_nothing(bench: Bench) -> None:
    limiter = limited(bench, requests_per_minute=1)
    assert await bench.result(openai({"model": "default/none"})) == "NO_ROUTE"
    assert "workspace:default" not in limiter._subjects


async def test_tries_of_other_providers_count_once(bench: Bench, upstream: ScriptedUpstream) -> None:
    async with ScriptedUpstream() as broken:
        broken.always(Status(500))
        upstream.always(WHOLE)
        bench.in_turn(broken.url, upstream.url)
        limiter = limited(bench, requests_per_minute=5, tokens_per_minute=1000)
        assert await bench.result(openai(BODY)) == "200 complete"
        assert len(broken.requests) == 1
    assert (left(limiter, "REQUESTS"), left(limiter, "TOKENS")) == (4, 990)


async def test_calls_by_provider_count_too(bench: Bench, upstream: ScriptedUpstream) -> None:
    bench.in_turn(upstream.url)
    upstream.always(WHOLE)
    limited(bench, requests_per_minute=1)
    assert [await bench.result(by_provider()) for _ in range(2)] == ["200 complete", "LIMIT_EXCEEDED"]


async def test_a_call_takes_from_key_and_workspace_or_from_neither(clock: Clock) -> None:
    limiter = Limiter(clock=clock)
    limiter.workspaces = {"lab": Limits(requests_per_minute=2)}
    mine, other = key("key-1", requests_per_minute=5), key("key-2", requests_per_minute=1)
    await limiter.admit(mine, "lab", tokens=0, cost=None)
    await limiter.admit(other, "lab", tokens=0, cost=None)
    with pytest.raises(LimitExceeded, match="workspace 'lab'"):
        await limiter.admit(mine, "lab", tokens=0, cost=None)
    assert left(limiter, "REQUESTS", "key:key-1") == 4
    hold = await limiter.admit(mine, "elsewhere", tokens=0, cost=None)
    assert dict(hold.told)[b"x-ratelimit-remaining-requests"] == b"3"


async def test_more_tokens_than_a_window_has_may_have_a_whole_window(clock: Clock) -> None:
    limiter, who = Limiter(clock=clock), key(tokens_per_minute=100)
    hold = await limiter.admit(who, "lab", tokens=5000, cost=None)
    with pytest.raises(LimitExceeded) as refused:
        await limiter.admit(who, "lab", tokens=1, cost=None)
    assert refused.value.metadata["limit"] == "tokens_per_minute"
    limiter.settle(hold, requests=1, tokens=30, cost=0)
    await limiter.admit(who, "lab", tokens=70, cost=None)


async def test_limits_that_change_hold_from_the_next_call_on(clock: Clock) -> None:
    limiter = Limiter(clock=clock)
    for allowed, fits in ((1, True), (1, False), (2, True), (2, False), (1, False)):
        limiter.workspaces = {"lab": Limits(requests_per_minute=allowed)}
        admitted = limiter.admit(key(), "lab", tokens=0, cost=None)
        if fits:
            await admitted
        else:
            with pytest.raises(LimitExceeded):
                await admitted


class Priced(Prices):
    """A price list without a service behind it."""

    def __init__(self, *prices: usage_pb2.Price) -> None:
        self._clock = lambda: NOW
        self._known = {}
        self._used = asyncio.Event()
        self.take(prices)


async def test_a_budget_is_spent_by_the_price_of_the_model(
    bench: Bench, upstream: ScriptedUpstream, clock: Clock
) -> None:
    bench.in_turn(upstream.url)
    upstream.always(WHOLE)
    price = usage_pb2.Price(model="vendor/*", provider="*", input_micros=1_000_000, output_micros=2_000_000)
    assert bench.router.limits is not None
    bench.router.limits.prices = Priced(price)
    limiter = limited(bench, budget=Budget(150, "day"))
    assert await bench.result(openai(BODY)) == "200 complete"
    assert left(limiter, "COST") == 150 - 13  # 7 tokens in, 3 out
    ended = [await bench.result(openai(BODY)) for _ in range(12)]
    assert ended[-1] == "LIMIT_EXCEEDED"
    assert 150 - left(limiter, "COST") <= 150
    with pytest.raises(LimitExceeded, match=r"budget_per_day of workspace 'default' is reached: 0.00015 USD allowed"):
        await bench.ask(openai(BODY))
    clock.now += 40  # the next day
    assert await bench.result(openai(BODY)) == "200 complete"


async def test_what_has_no_price_does_not_count(bench: Bench, upstream: ScriptedUpstream) -> None:
    bench.in_turn(upstream.url)
    upstream.always(WHOLE)
    assert bench.router.limits is not None
    bench.router.limits.prices = Priced(usage_pb2.Price(model="other", provider="*", input_micros=10**9))
    limiter = limited(bench, budget=Budget(1, "month"))
    assert [await bench.result(openai(BODY)) for _ in range(3)] == ["200 complete"] * 3
    assert left(limiter, "COST") == 1


PRICES = {
    "pattern": (("gpt-*", "*", 1), ("*", "*", 2), 1),
    "exact": (("gpt-4", "*", 1), ("gpt-*", "*", 2), 1),
    "provider before exact": (("gpt-4", "*", 1), ("gpt-*", "default/p", 2), 2),
    "provider": (("gpt-4", "*", 1), ("gpt-4", "default/p", 2), 2),
    "other provider": (("gpt-4", "default/q", 1), ("*", "*", 2), 2),
}


@pytest.mark.parametrize("case", PRICES)
async def test_the_most_exact_price_holds(case: str) -> None:
    *given, millions = PRICES[case]
    made = [usage_pb2.Price(model=m, provider=p, input_micros=n * 1_000_000) for m, p, n in given]
    assert Priced(*made).cost("default/p", "gpt-4", 1, 0) == millions


def test_limits_are_read_from_their_message() -> None:
    message = access_pb2.KeyLimits(requests_per_minute=3, budget=access_pb2.Budget(micros=5, period="month"))
    read = Limits.of(message)
    assert read == Limits(requests_per_minute=3, budget=Budget(5, "month"))
    assert read.counted
    assert not Limits(concurrency=3).counted
    assert Limits.of(access_pb2.KeyLimits(budget=access_pb2.Budget(micros=5, period="year"))).budget is None
