"""Prices as a router knows them, for budgets: asked for now and then while a budget is being counted, and kept.

As in the records of usage, a price for the provider goes before one for all, then a whole model name before a pattern,
then the pattern with more letters. A model without a price costs nobody anything: its requests do not count.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from junctor.channel import Peer
from junctor.errors import JunctorError
from junctor.v1 import usage_pb2 as pb
from junctor.v1 import usage_pb2_grpc

ASK_SECONDS = 5.0
"""Between two questions: a new price is known to all routers so soon."""
_MOST_KNOWN = 10_000
_MILLION = 1_000_000
_WILD = frozenset("*?[")


class Prices:
    """Look-ups in memory; :meth:`run` is a task."""

    def __init__(self, metering: Peer, *, clock: Callable[[], float] = time.time) -> None:
        self._peer = metering
        self._stub = usage_pb2_grpc.PricesStub(metering.channel)
        self._clock = clock
        self._prices: tuple[pb.Price, ...] = ()
        self._known: dict[tuple[str, str], pb.Price | None] = {}
        self._used = asyncio.Event()

    async def run(self) -> None:
        """Ask until cancelled, from the first use on."""
        while True:
            await self._used.wait()
            try:
                answer = await self._peer.call(self._stub.ListPrices, pb.ListPricesRequest(), timeout=ASK_SECONDS)
            except JunctorError:
                pass  # what was known holds
            else:
                self.take(answer.prices)
            await asyncio.sleep(ASK_SECONDS)

    def take(self, prices: Sequence[pb.Price]) -> None:
        """Take the prices that hold from now on."""
        self._prices = tuple(prices)
        self._known.clear()

    def cost(self, provider: str, model: str, tokens_in: int, tokens_out: int, cached: int = 0) -> int | None:
        """Return what tokens cost, in millionths of a US dollar, rounded; None: the price is not known.

        ``provider`` is ``workspace/name``, ``model`` what it calls the model; ``cached`` tokens are part of those in.
        """
        self._used.set()
        price = self._price(provider, model)
        if price is None:
            return None
        cached = min(cached, tokens_in)
        for_cached = price.cached_input_micros if price.HasField("cached_input_micros") else price.input_micros
        total = (tokens_in - cached) * price.input_micros + cached * for_cached + tokens_out * price.output_micros
        return (total + _MILLION // 2) // _MILLION

    def _price(self, provider: str, model: str) -> pb.Price | None:
        at = (provider, model)
        if at not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            now = self._clock()
            fit = [price for price in self._prices if _fits(price, provider, model, now)]
            self._known[at] = max(fit, key=_rank, default=None)
        return self._known[at]


def _fits(price: pb.Price, provider: str, model: str, now: float) -> bool:
    begun = not price.HasField("valid_from") or price.valid_from.seconds <= now
    return begun and price.provider in {"*", provider} and fnmatchcase(model, price.model)


def _rank(price: pb.Price) -> tuple[bool, bool, int, int, int]:
    letters = sum(letter not in _WILD for letter in price.model)
    exact = letters == len(price.model)
    return (price.provider != "*", exact, letters, price.valid_from.ToMicroseconds(), price.version)
