"""Usage and prices as requests. Pure; sent by the twins ``usage_blocking`` and ``usage_awaited``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from junctor.paging import Page
from junctor.request import Filter, Request, content, filter_text
from junctor.resources.kinds import decoded
from junctor.usage_records import Price, UsageRecord, UsageSummary

USAGE, SUMMARY, PRICES = "apis/usage/v2/usage", "apis/usage/v2/summary", "apis/usage/v2/prices"
Moment = datetime | str


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records; None: all that the caller may see."""

    workspace: str | None = None
    since: Moment | None = None
    until: Moment | None = None
    filter: Filter | None = None

    def query(self) -> dict[str, str | int | None]:
        """Return the parameters of it."""
        return {
            "workspace": self.workspace,
            "since": _time(self.since),
            "until": _time(self.until),
            "filter": filter_text(self.filter),
        }


def list_usage(wanted: Wanted, page_size: int | None, number: int) -> Request[Page[UsageRecord]]:
    """Read one page of records, newest first."""
    query = {**wanted.query(), "page": number, "page_size": page_size}
    return Request("GET", USAGE, lambda got: Page.read(decoded(got), UsageRecord.read), query)


def export_usage(wanted: Wanted) -> Request[str]:
    """Read all records as CSV."""
    query = {**wanted.query(), "format": "csv"}
    return Request("GET", USAGE, lambda got: got.body.decode(), query, headers={"accept": "text/csv"})


def summarize_usage(wanted: Wanted, by: Sequence[str]) -> Request[UsageSummary]:
    """Add records up."""
    query = {**wanted.query(), "by": ",".join(by) or None}
    return Request("GET", SUMMARY, lambda got: UsageSummary.of(decoded(got)), query)


def list_prices(*, all_versions: bool) -> Request[tuple[Price, ...]]:
    """Read prices."""
    query = {"all_versions": "true" if all_versions else None}
    return Request("GET", PRICES, lambda got: tuple(Price.read(each) for each in decoded(got)["data"]), query)


def set_price(fields: Mapping[str, Any]) -> Request[Price]:
    """Set a price."""
    body = content({name: value for name, value in fields.items() if value is not None})
    return Request("POST", PRICES, lambda got: Price.read(decoded(got)), body=body)


def _time(moment: Moment | None) -> str | None:
    if not isinstance(moment, datetime):
        return moment
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()
