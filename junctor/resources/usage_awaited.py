"""Usage and prices of :class:`junctor.AsyncClient`. Twin of :mod:`junctor.resources.usage_blocking`."""

from __future__ import annotations

from collections.abc import Sequence

from junctor.paging import AsyncPages
from junctor.request import Filter
from junctor.resources import usage_kinds as kinds
from junctor.resources.awaited import AsyncSender
from junctor.resources.usage_kinds import Moment, Wanted
from junctor.usage_records import Price, UsageRecord, UsageSummary


class AsyncUsage(AsyncSender):
    """What requests used and cost. Every method takes ``workspace``, ``since``, ``until`` and ``filter``."""

    def list(
        self,
        *,
        workspace: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        filter: Filter | None = None,  # noqa: A002 - the name in the contract
        page_size: int | None = None,
    ) -> AsyncPages[UsageRecord]:
        """List records, newest first, of every workspace that the caller manages unless one is given."""
        wanted = Wanted(workspace, since, until, filter)
        return AsyncPages(lambda number: self._transport.send(kinds.list_usage(wanted, page_size, number)))

    async def summarize(
        self,
        by: Sequence[str] = (),
        *,
        workspace: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        filter: Filter | None = None,  # noqa: A002 - the name in the contract
    ) -> UsageSummary:
        """Add records up by ``model``, ``workspace``, ``provider``, ``principal``, ``day``, ``tag:<name>`` …"""
        return await self._transport.send(kinds.summarize_usage(Wanted(workspace, since, until, filter), by))

    async def export(
        self,
        *,
        workspace: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        filter: Filter | None = None,  # noqa: A002 - the name in the contract
    ) -> str:
        """Return all records as CSV."""
        return await self._transport.send(kinds.export_usage(Wanted(workspace, since, until, filter)))


class AsyncPrices(AsyncSender):
    """What a million tokens cost, in millionths of a US dollar. A price is never changed, only followed by another."""

    async def list(self, *, all_versions: bool = False) -> tuple[Price, ...]:
        """List those that hold and those to come; ``all_versions``: all that there were."""
        return await self._transport.send(kinds.list_prices(all_versions=all_versions))

    async def set(
        self,
        model: str,
        input_micros: int,
        output_micros: int,
        *,
        provider: str = "*",
        cached_input_micros: int | None = None,
        valid_from: Moment | None = None,
    ) -> Price:
        """Set the price of a model (``*`` and ``?`` as in file names) from a time on; without one: from now on."""
        fields = {
            "model": model,
            "provider": provider,
            "input_micros": input_micros,
            "output_micros": output_micros,
            "cached_input_micros": cached_input_micros,
            "valid_from": valid_from,
        }
        return await self._transport.send(kinds.set_price(fields))
