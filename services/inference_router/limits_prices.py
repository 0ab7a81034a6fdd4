"""Prices as a router knows them, for budgets: asked for now and then while a budget is being counted, and kept.

The price is the one that the record of usage is given. A model without a price costs nobody anything: its requests do
not count.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from junctor.channel import Peer
from junctor.errors import JunctorError
from junctor.v1 import usage_pb2 as pb
from junctor.v1 import usage_pb2_grpc
from services.runtime import pricing

ASK_SECONDS = 5.0
"""Between two questions: a new price is known to all routers so soon."""


class Prices:
    """Look-ups in memory; :meth:`run` is a task."""

    def __init__(self, metering: Peer, *, clock: Callable[[], float] = time.time) -> None:
        self._peer = metering
        self._stub = usage_pb2_grpc.PricesStub(metering.channel)
        self._clock = clock
        self._book = pricing.PriceBook()
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
        self._book = pricing.PriceBook(prices)

    def cost(self, provider: str, model: str, tokens_in: int, tokens_out: int, cached: int = 0) -> int | None:
        """Return what tokens cost, in millionths of a US dollar, rounded; None: the price is not known.

        ``provider`` is ``workspace/name``, ``model`` what it calls the model; ``cached`` tokens are part of those in.
        """
        self._used.set()
        price = self._book.price_at(provider, model, int(self._clock() * 1e6))
        return None if price is None else pricing.cost(price, tokens_in, tokens_out, cached)
