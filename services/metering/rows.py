"""Records of usage as rows of their table, and the statements that write many at once.

There is a row for every request, so this is written for speed: each field is read once, rows are tuples, and the driver
takes them as they are. ``benchmarks/usage_store.py`` measures it.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final

from junctor.v1 import usage_pb2 as pb
from services.runtime.pricing import PriceBook, cost_of

TAG: Final = "tags."
"""What filters put before the name of a tag (:mod:`services.runtime.filter_sql`)."""
_TAG_WIDTH = 255
_COLUMNS: Final = {
    "seq": "bigint",
    "id": "text",
    "created_at": "bigint",
    "request_id": "text",
    "workspace": "text",
    "model": "text",
    "provider": "text",
    "upstream_model": "text",
    "principal": "text",
    "kind": "text",
    "verdict": "text",
    "error_source": "text",
    "tags": "json",
    "stream": "boolean",
    "status": "integer",
    "attempts": "integer",
    "token_source": "integer",
    "input_tokens": "bigint",
    "output_tokens": "bigint",
    "cached_tokens": "bigint",
    "reasoning_tokens": "bigint",
    "cost_micros": "bigint",
    "price_version": "bigint",
    "queue_seconds": "double precision",
    "first_byte_seconds": "double precision",
    "total_seconds": "double precision",
}
"""In the order of :func:`row_of`, with PostgreSQL's types."""
_NAMES = ", ".join(_COLUMNS)
_ROW = f"({', '.join('?' * len(_COLUMNS))})"
TOGETHER: Final = 128
"""Rows in one statement: some 0.5 ms of the event loop with SQLite."""


@cache
def into_sqlite(rows: int) -> str:
    """Return the statement that takes the values of that many rows, one after the other."""
    values = ", ".join([_ROW] * rows)
    return f"INSERT INTO usage ({_NAMES}) VALUES {values} ON CONFLICT DO NOTHING"  # noqa: S608 - of the names above


INTO_POSTGRESQL: Final = (
    f"INSERT INTO usage ({_NAMES}) SELECT * FROM unnest("  # noqa: S608 - of the names above
    + ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(_COLUMNS.values(), 1))
    + ") ON CONFLICT DO NOTHING"
)
"""Takes columns, all at once."""


def row_of(seq: int, record: pb.UsageRecord, book: PriceBook) -> tuple[Any, ...]:
    """Return what is written of a record and what it costs: texts cut to their columns."""
    time, has = record.time, record.HasField
    micros = time.seconds * 1_000_000 + time.nanos // 1_000
    provider, upstream_model = record.provider, record.upstream_model
    source = record.token_source
    cost, version = _cost(record, book.price_at(provider, upstream_model, micros)) if source else (None, 0)
    tags = record.tags
    return (
        seq,
        record.id,
        micros,
        _cut(record.request_id, 256),
        _cut(record.workspace, 320),
        _cut(record.model, 320),
        _cut(provider, 320),
        _cut(upstream_model, 512),
        _cut(record.principal, 320),
        _cut(record.kind, 32),
        _cut(record.verdict, 32),
        _cut(record.error_source, 32),
        _tags(tags) if tags else "{}",
        record.stream,
        record.status,
        record.attempts,
        source,
        record.input_tokens if has("input_tokens") else None,
        record.output_tokens if has("output_tokens") else None,
        record.cached_tokens if has("cached_tokens") else None,
        record.reasoning_tokens if has("reasoning_tokens") else None,
        cost,
        version,
        record.queue_seconds,
        record.first_byte_seconds if has("first_byte_seconds") else None,
        record.total_seconds,
    )


def _cost(record: pb.UsageRecord, price: pb.Price | None) -> tuple[int | None, int]:
    """Return the cost and the version of the price that it was reckoned by."""
    cost = None if price is None else cost_of(price, record)
    return (None, 0) if price is None or cost is None else (cost, price.version)


def _tags(tags: Any) -> str:
    cut = {TAG + name.replace("\0", ""): _cut(value, _TAG_WIDTH) for name, value in tags.items()}
    return json.dumps(cut)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width and "\0" not in text else text[:width].replace("\0", "")
