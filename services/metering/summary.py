"""Sums of records: one GROUP BY over whatever fields are asked for, tags among them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from junctor.errors import FieldViolation, InvalidField
from junctor.v1 import usage_pb2 as pb
from services.metering.rows import TAG
from services.metering.store import USAGE

MOST_SUMS = 10_000
"""Lines of a summary; the rest is in its total."""
FIELDS = ("model", "workspace", "provider", "upstream_model", "principal", "kind", "verdict")
_MOST_FIELDS = 8
_SPANS = {"day": (86_400 * 1_000_000, "%Y-%m-%d"), "hour": (3_600 * 1_000_000, "%Y-%m-%dT%H:00:00Z")}
_TAG = re.compile(r"tag:([A-Za-z0-9][A-Za-z0-9\-_./]{0,62})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_ONE = USAGE.c
_SUMS: dict[str, sa.ColumnElement[Any]] = {
    "requests": sa.func.count(),
    "failed": sa.func.count().filter(_ONE.error_source != ""),
    **{
        name: sa.cast(sa.func.coalesce(sa.func.sum(_ONE[name]), 0), sa.BigInteger)
        for name in ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
    },
    "estimated": sa.func.count().filter(_ONE.token_source == pb.TOKEN_SOURCE_ESTIMATED),
    "cost_micros": sa.cast(sa.func.coalesce(sa.func.sum(_ONE.cost_micros), 0), sa.BigInteger),
    "unpriced": sa.func.count().filter(_ONE.token_source != 0, _ONE.cost_micros.is_(None)),
}


async def summarize(
    tx: AsyncConnection, by: Sequence[str], conditions: Sequence[sa.ColumnElement[bool]]
) -> pb.SummarizeUsageResponse:
    """Add records up. Raises InvalidField for a field that there is no summing by."""
    groups = [_group(index, field).label(f"by_{index}") for index, field in enumerate(by)]
    sums = [column.label(name) for name, column in _SUMS.items()]
    (whole,) = await tx.execute(sa.select(*sums).where(*conditions))
    answer = pb.SummarizeUsageResponse(total=_sum(whole, ()))
    if not groups:
        return answer
    # By their labels: PostgreSQL takes two expressions with parameters for two different ones.
    labels = [sa.text(group.name) for group in groups]
    order: tuple[Any, ...] = (sa.text("cost_micros DESC"), sa.text("input_tokens + output_tokens DESC"), *labels)
    grouped = sa.select(*groups, *sums).where(*conditions).group_by(*labels).subquery()
    lines = sa.select(grouped).order_by(*order).limit(MOST_SUMS)
    answer.sums.extend(_sum(row, by) for row in await tx.execute(lines))
    return answer


def check(by: Sequence[str]) -> None:
    """Raises InvalidField for fields that there is no summing by."""
    if len(by) > _MOST_FIELDS:
        raise InvalidField.of(FieldViolation("by", f"must be at most {_MOST_FIELDS} fields"))
    for index, field in enumerate(by):
        _group(index, field)


def _group(index: int, field: str) -> sa.ColumnElement[Any]:
    if field in FIELDS:
        return USAGE.c[field]
    if field in _SPANS:
        return USAGE.c.created_at // _SPANS[field][0]
    if tag := _TAG.fullmatch(field):
        return sa.func.coalesce(USAGE.c.fields[TAG + tag[1]].as_string(), "")
    allowed = ", ".join((*FIELDS, *_SPANS, "tag:<name>"))
    raise InvalidField.of(FieldViolation(f"by[{index}]", f"must be one of {allowed}"))


def _sum(row: sa.Row[Any], by: Sequence[str]) -> pb.UsageSum:
    values = row._mapping
    sums: dict[str, Any] = {name: int(values[name]) for name in _SUMS}
    told = pb.UsageSum(**sums)
    told.group.extend(_shown(field, values[f"by_{index}"]) for index, field in enumerate(by))
    return told


def _shown(field: str, value: Any) -> str:
    if field not in _SPANS:
        return str(value)
    span, form = _SPANS[field]
    return (_EPOCH + timedelta(microseconds=int(value) * span)).strftime(form)
