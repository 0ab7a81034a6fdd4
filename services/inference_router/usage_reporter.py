"""Brings a record of every ended request to metering: kept while it is away, told again until it says that it has it.

A record has its id from the start, so one that is told twice counts once. What there is no room for is counted, and
metering is told how many. A process that is killed loses what it has not shipped: at most :data:`SHIP_SECONDS` of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from junctor.channel import Peer
from junctor.errors import InvalidArgument
from junctor.v1 import usage_pb2 as pb
from junctor.v1 import usage_pb2_grpc
from services.inference_router.usage_records import Ended, ended_of, fill
from services.runtime.finished import KINDS, Finished
from services.runtime.metrics import Family, Sample, gauge
from services.runtime.trouble import Trouble

WAITING_LIMIT: Final = 100_000
"""Records that wait for metering, about 40 MB."""
SHIP_SECONDS: Final = 1.0
"""How long records are gathered."""
BATCH: Final = 1_000
"""Records in one call."""
_FEW: Final = 100
"""Records made in one go, some 1 ms of the event loop."""
_RETRY_SECONDS: Final = 1.0
_CALL_SECONDS: Final = 10.0

TakeUsage = Callable[[pb.RecordUsageRequest], Awaitable[object]]
"""Tells metering, and returns when it has what it was told. Raises JunctorError."""

_log = logging.getLogger(__name__)


def tell_by(metering: Peer) -> TakeUsage:
    """Return what tells metering in another process; ``metering`` shows the service token or a certificate."""
    stub = usage_pb2_grpc.UsageSinkStub(metering.channel)
    return lambda request: metering.call(stub.RecordUsage, request, timeout=_CALL_SECONDS)


class UsageReporter:
    """A hook of :mod:`services.runtime.finished`. One object serves a router; made inside its event loop."""

    def __init__(self, take: TakeUsage, *, limit: int = WAITING_LIMIT, every: float = SHIP_SECONDS) -> None:
        """``take`` tells metering; ``limit`` records at most wait."""
        self._take = take
        self._limit = limit
        self._every = every
        self._origin = secrets.token_hex(8)
        self._number = 0
        self._waiting: deque[Ended] = deque()
        self._batch = pb.RecordUsageRequest()
        """What is being shipped until that is acknowledged."""
        self._untold = 0
        self._trouble = Trouble(_log, "could not bring records of usage to metering")
        self._task: asyncio.Task[None] | None = None
        self.shipped = 0
        self.dropped = 0
        """Records for which there was no room, since the start."""

    def __call__(self, finished: Finished) -> None:
        """Keep what a record needs of an ended request."""
        waiting = self._waiting
        if len(waiting) >= self._limit:
            self.dropped += 1
            self._untold += 1
            return
        self._number = number = self._number + 1
        waiting.append(ended_of(number, finished, KINDS.get(finished.call.path, "other")))

    def start(self) -> None:
        """Begin to ship."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self, seconds: float) -> None:
        """Ship what waits, for at most ``seconds``; what is left then is lost, and the log says how much."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                while self._left() and not await self.ship():  # noqa: ASYNC110 - no event says that metering is back
                    await asyncio.sleep(0.1)
        if left := self._left():
            _log.warning("records of usage are lost: metering could not be reached", extra={"records": left})

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            if not await self.ship():
                await asyncio.sleep(_RETRY_SECONDS)

    async def ship(self) -> bool:
        """Ship all that waits, a batch at a time; False: not now, it is kept for the next time."""
        batch = self._batch.records
        while batch or self._waiting or self._untold:
            await self._fill()
            self._batch.dropped = untold = self._untold
            try:
                await self._take(self._batch)
            except InvalidArgument as error:  # it will be no better the next time
                self._trouble.failed(error)
                self.dropped += len(batch)
                self._untold += len(batch)
            except Exception as error:  # noqa: BLE001 - whoever is away comes back; the records are kept
                self._trouble.failed(error)
                return False
            else:
                self._trouble.over()
                self.shipped += len(batch)
                self._untold -= untold
            del batch[:]
        return True

    async def _fill(self) -> None:
        batch, waiting, origin = self._batch.records, self._waiting, self._origin
        while waiting and len(batch) < BATCH:
            for _ in range(min(_FEW, len(waiting), BATCH - len(batch))):
                ended = waiting.popleft()
                try:
                    fill(batch.add(), origin, ended)
                except ValueError as error:  # a text that no message takes
                    del batch[-1]
                    self._trouble.failed(error)
                    self.dropped += 1
                    self._untold += 1
            await asyncio.sleep(0)

    def _left(self) -> int:
        return len(self._batch.records) + len(self._waiting)

    def families(self) -> Iterator[Family]:
        """Return the metrics of the queue."""
        for name, text, count in (
            ("junctor_usage_shipped_total", "Records of requests that metering has taken.", self.shipped),
            ("junctor_usage_dropped_total", "Records of requests for which there was no room.", self.dropped),
        ):
            yield Family(name, "counter", text, (Sample(count),))
        yield gauge("junctor_usage_waiting", "Records of requests that wait for metering.", self._left())
