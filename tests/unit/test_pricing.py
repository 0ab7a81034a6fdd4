"""Which price holds, and what it makes of tokens."""

from __future__ import annotations

import pytest

from junctor.v1 import usage_pb2 as pb
from services.runtime.pricing import PriceBook, cost_of

NOW = 1_000_000_000


def price(model: str, provider: str, version: int, *, since: int = 1) -> pb.Price:
    made = pb.Price(model=model, provider=provider, version=version, input_micros=version)
    made.valid_from.FromMicroseconds(since)
    return made


@pytest.mark.parametrize(
    ("prices", "expected"),
    [
        pytest.param([price("gpt-*", "*", 1), price("gpt-4o", "*", 2)], 2, id="a whole name before a pattern"),
        pytest.param([price("gpt-4o", "*", 1), price("gpt-*", "w/p", 2)], 2, id="a provider before any"),
        pytest.param([price("gpt-4*", "*", 1), price("*", "*", 2)], 1, id="the longer pattern"),
        pytest.param([price("gpt-4o", "*", 1), price("gpt-4o", "*", 2)], 2, id="of the same time the later one"),
        pytest.param([price("gpt-4o", "*", 1), price("gpt-4o", "*", 2, since=NOW + 1)], 1, id="not yet begun"),
        pytest.param([price("gpt-4o", "*", 1, since=9), price("gpt-4o", "*", 2, since=8)], 1, id="the last to begin"),
        pytest.param([price("gpt-4o", "w/p", 1, since=NOW + 1), price("*", "*", 2)], 2, id="the exact one is to come"),
        pytest.param([price("gpt-4", "*", 1), price("gpt-4o", "w/q", 2)], 0, id="none"),
    ],
)
def test_the_most_exact_price_that_has_begun_holds(prices: list[pb.Price], expected: int) -> None:
    for given in (prices, prices[::-1]):
        found = PriceBook(given).price_at("w/p", "gpt-4o", NOW)
        assert (found.version if found else 0) == expected


@pytest.mark.parametrize(
    ("tokens", "cost"),
    [
        pytest.param({"input_tokens": 1_000_000, "output_tokens": 0}, 2_500_000, id="a million"),
        pytest.param({"input_tokens": 10, "output_tokens": 1, "cached_tokens": 4}, 30, id="cached ones cost less"),
        pytest.param({"input_tokens": 1, "output_tokens": 0}, 3, id="rounded half up, once"),
        pytest.param({"input_tokens": 3, "output_tokens": 0}, 8, id="seven and a half"),
        pytest.param({"input_tokens": 4}, 10, id="embeddings"),
        pytest.param({"output_tokens": 4}, None, id="what went in is not known"),
        pytest.param({}, None, id="nothing is known"),
    ],
)
def test_a_cost_is_exact_and_unknown_is_not_zero(tokens: dict[str, int], cost: int | None) -> None:
    one = pb.Price(input_micros=2_500_000, output_micros=10_000_000, cached_input_micros=1_250_000)
    record = pb.UsageRecord(token_source=pb.TOKEN_SOURCE_REPORTED, **tokens)  # type: ignore[arg-type]
    assert cost_of(one, record) == cost
