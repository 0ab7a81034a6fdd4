"""What a record of usage costs off the path of a request: filled in, shipped, checked, priced and written to SQLite.

Tells microseconds of CPU a record, each part the least of five rounds; all of it is what a busy process spends beside
its requests.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import process_time
from typing import Final

from junctor.v1 import usage_pb2 as pb
from services.inference_router.usage_records import ended_of, fill
from services.metering.ledger import Ledger
from services.metering.prices import PriceStore
from services.metering.servicer import UsageSinkServicer
from services.metering.store import MIGRATIONS
from services.runtime.changes import Feed
from services.runtime.db import open_database
from services.runtime.exchange import Attempt, Call, Route, Usage
from services.runtime.finished import Finished

ROUNDS: Final = 5
BATCHES: Final = 10
BATCH: Final = 1_000
RECORDS: Final = BATCHES * BATCH


CALL: Final = Call(Route.PLAIN, "default", "", "POST", b"v1/chat/completions", body=b"{}", request_id="req-1")
ENDED: Final = Finished(
    *(CALL, "default/m", "default/m", "default/p", "m", False, 200, "complete", "", None),
    (Attempt("default/p", 200, "", 1.0),),
    Usage(10, 20, None, None),
)
"""A chat that went well, as the router tells it."""


def filled(number: int) -> list[pb.RecordUsageRequest]:
    """Return batches of records; ``number`` makes their ids new."""
    requests = [pb.RecordUsageRequest() for _ in range(BATCHES)]
    for index in range(RECORDS):
        fill(requests[index // BATCH].records.add(), f"origin{number}", ended_of(index, ENDED, "chat"))
    return requests


def there_and_back(requests: list[pb.RecordUsageRequest]) -> None:
    """Do to the batches what a call between processes does."""
    for each in requests:
        pb.RecordUsageRequest.FromString(each.SerializeToString())


async def main() -> None:
    """Measure."""
    took: dict[str, list[float]] = {}

    @contextmanager
    def measured(what: str) -> Iterator[None]:
        began = process_time()
        yield
        took.setdefault(what, []).append((process_time() - began) / RECORDS * 1e6)

    with tempfile.TemporaryDirectory() as folder:
        database = open_database(f"sqlite:///{Path(folder) / 'metering.db'}", schema="metering")
        await database.migrate(MIGRATIONS)
        feed = Feed(database)
        sink = UsageSinkServicer(Ledger(feed, PriceStore(feed)))
        for number in range(ROUNDS):
            with measured("kept and filled in"):
                requests = filled(number)
            with measured("as bytes, there and back"):
                there_and_back(requests)
            with measured("checked, priced and written"):
                for each in requests:
                    await sink.take(each)
        assert sink.recorded == ROUNDS * RECORDS
        await database.close()
    for what, figures in took.items():
        print(f"{what:30} {min(figures):6.2f} µs a record")


if __name__ == "__main__":
    asyncio.run(main())
