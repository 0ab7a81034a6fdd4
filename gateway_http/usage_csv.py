"""Records and sums of usage as CSV (RFC 4180): a head, then a line each. What is not known is an empty field."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from gateway_http.rendering import time_text
from junctor.v1 import usage_pb2 as pb

TYPE = "text/csv; charset=utf-8"
RECORD_FIELDS = tuple(field.name for field in pb.UsageRecord.DESCRIPTOR.fields)
SUM_FIELDS = tuple(field.name for field in pb.UsageSum.DESCRIPTOR.fields if field.name != "group")
_OPTIONAL = frozenset(field.name for field in pb.UsageRecord.DESCRIPTOR.fields if field.has_presence)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a text begins that a spreadsheet would run."""


async def records(pages: AsyncIterator[pb.ListUsageResponse]) -> AsyncIterator[str]:
    """Yield the head, then the lines of each page as it comes."""
    yield _lines([RECORD_FIELDS])
    async for page in pages:
        yield _lines([[_field(record, name) for name in RECORD_FIELDS] for record in page.records])


async def sums(by: Sequence[str], found: pb.SummarizeUsageResponse) -> AsyncIterator[str]:
    """Yield the head and a line for each sum; without ``by``: the total."""
    rows = found.sums if by else [found.total]
    yield _lines([(*by, *SUM_FIELDS)])
    yield _lines([[*map(_text, row.group), *(getattr(row, name) for name in SUM_FIELDS)] for row in rows])


def _field(record: pb.UsageRecord, name: str) -> Any:
    if name in _OPTIONAL and not record.HasField(name):  # type: ignore[arg-type]
        return ""
    value = getattr(record, name)
    if name == "time":
        return time_text(value)
    if name == "tags":
        return json.dumps(dict(sorted(value.items())), ensure_ascii=False) if value else ""
    if name == "token_source":
        return pb.TokenSource.Name(value).removeprefix("TOKEN_SOURCE_") if value else ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return _text(value) if isinstance(value, str) else value


def _text(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def _lines(rows: Iterable[Iterable[Any]]) -> str:
    written = io.StringIO()
    csv.writer(written).writerows(rows)
    return written.getvalue()
