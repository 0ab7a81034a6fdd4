"""Which price holds for a request, and what it costs by it. Pure functions over the prices that there are.

Metering prices its records with it, a router what it counts against budgets: both say the same of a request.

The most exact pair of provider and model that had begun by then wins: a named provider before ``*``, then a whole
model name before a pattern, then the pattern with more letters. Of one pair the price that began last holds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from fnmatch import translate
from re import Pattern
from re import compile as compile_pattern

from junctor.v1 import usage_pb2 as pb

MILLION = 1_000_000
ANY_PROVIDER = "*"
_WILD = frozenset("*?[")


class PriceBook:
    """All prices of one moment."""

    def __init__(self, prices: Iterable[pb.Price] = ()) -> None:
        pairs: dict[tuple[str, str], list[pb.Price]] = defaultdict(list)
        for price in prices:
            pairs[price.provider, price.model].append(price)
        for versions in pairs.values():
            versions.sort(key=lambda price: (price.valid_from.ToMicroseconds(), price.version), reverse=True)
        self._pairs = [(*pair, _pattern(pair[1]), versions) for pair, versions in sorted(pairs.items(), key=_exactness)]
        self._known: dict[tuple[str, str], list[list[pb.Price]]] = {}

    def price_at(self, provider: str, model: str, micros: int) -> pb.Price | None:
        """Return the price of a provider's model at a time (microseconds); None: there is none."""
        for versions in self._of(provider, model):
            for price in versions:
                if price.valid_from.ToMicroseconds() <= micros:
                    return price
        return None

    def _of(self, provider: str, model: str) -> list[list[pb.Price]]:
        known = self._known.get((provider, model))
        if known is None:
            known = [
                versions
                for of, _, pattern, versions in self._pairs
                if of in (provider, ANY_PROVIDER) and pattern.match(model)
            ]
            if len(self._known) < 10_000:
                self._known[provider, model] = known
        return known


def cost_of(price: pb.Price, record: pb.UsageRecord) -> int | None:
    """Return the cost in millionths of a dollar, rounded once, half up; None: tokens that it needs are not known.

    Cached tokens are part of those that went in, and cost ``cached_input_micros`` if the price has it. Whoever reports
    what went in and says nothing of what came out (embeddings) had nothing come out.
    """
    into, out = _count(record, "input_tokens"), _count(record, "output_tokens")
    if out is None and into is not None and record.token_source == pb.TOKEN_SOURCE_REPORTED:
        out = 0
    if (into is None and price.input_micros) or (out is None and price.output_micros) or into is out is None:
        return None
    return cost(price, into or 0, out or 0, record.cached_tokens)


def cost(price: pb.Price, tokens_in: int, tokens_out: int, cached: int = 0) -> int:
    """Return what tokens cost, in millionths of a dollar, rounded half up; ``cached`` ones are part of those in."""
    cached = min(cached, tokens_in) if price.HasField("cached_input_micros") else 0
    total = (
        (tokens_in - cached) * price.input_micros
        + cached * price.cached_input_micros
        + tokens_out * price.output_micros
    )
    return (total + MILLION // 2) // MILLION


def _count(record: pb.UsageRecord, field: str) -> int | None:
    return int(getattr(record, field)) if record.HasField(field) else None  # type: ignore[arg-type]


def _pattern(model: str) -> Pattern[str]:
    return compile_pattern(translate(model))


def _exactness(item: tuple[tuple[str, str], object]) -> tuple[bool, bool, int, str, str]:
    (provider, model), _ = item
    letters = sum(letter not in _WILD for letter in model)
    return provider == ANY_PROVIDER, bool(_WILD & set(model)), -letters, model, provider
