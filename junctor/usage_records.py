"""What calls about usage return: records of requests, sums of them, prices. Costs are in millionths of a US dollar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from junctor.errors import InternalError
from junctor.records import Record


@dataclass(frozen=True, kw_only=True)
class UsageRecord(Record):
    """One request that has ended. None: not known. ``token_source``: REPORTED, ESTIMATED or None: nothing was used."""

    id: str = ""
    time: datetime | None = None
    request_id: str = ""
    workspace: str = ""
    model: str = ""
    provider: str = ""
    upstream_model: str = ""
    principal: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    kind: str = ""
    stream: bool = False
    status: int = 0
    verdict: str = ""
    error_source: str = ""
    attempts: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    token_source: str | None = None
    cost_micros: int | None = None
    price_version: int = 0
    queue_seconds: float = 0.0
    first_byte_seconds: float | None = None
    total_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class UsageSum(Record):
    """One line of a summary. ``group``: the values of the fields that were asked for."""

    group: tuple[str, ...] = ()
    requests: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: int = 0
    cost_micros: int = 0
    unpriced: int = 0


@dataclass(frozen=True, kw_only=True)
class UsageSummary(Record):
    """Sums, and all of it in one line."""

    by: tuple[str, ...] = ()
    sums: tuple[UsageSum, ...] = ()
    total: UsageSum = field(default_factory=UsageSum)

    @classmethod
    def of(cls, data: Any) -> UsageSummary:
        """Build it from its JSON. Raises InternalError when it is no summary."""
        try:
            sums = tuple(UsageSum.read(each) for each in data["sums"])
            return cls(by=tuple(data["by"]), sums=sums, total=UsageSum.read(data["total"]), raw=data)
        except (TypeError, KeyError):
            raise InternalError("the server's answer is not a summary of usage") from None


@dataclass(frozen=True, kw_only=True)
class Price(Record):
    """What a million tokens of a model cost from a time on."""

    model: str = ""
    provider: str = "*"
    input_micros: int = 0
    output_micros: int = 0
    cached_input_micros: int | None = None
    valid_from: datetime | None = None
    version: int = 0
    created_by: str = ""
