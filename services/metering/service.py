"""Metering as one object: its store, its servicers, its background work. Lives in the process of access control."""

from __future__ import annotations

from collections.abc import Iterator

from junctor.channel import Peer
from junctor.v1 import quota_pb2_grpc, usage_pb2_grpc
from junctor.v1 import usage_pb2 as pb
from services.metering.ledger import Ledger, sweep_forever
from services.metering.pages import Births
from services.metering.prices import PriceStore
from services.metering.quota import QuotaStore
from services.metering.quota_servicer import QuotaServicer
from services.metering.servicer import PricesServicer, UsageServicer, UsageSinkServicer
from services.metering.store import MIGRATIONS
from services.runtime.changes import Feed
from services.runtime.db import Database
from services.runtime.metrics import Family, Sample
from services.runtime.server import GrpcServer
from services.runtime.tasks import Tasks
from services.runtime.upkeep import compact_forever

SERVICES = ("junctor.v1.Usage", "junctor.v1.Prices", "junctor.v1.UsageSink", "junctor.v1.Quota")
RETENTION_DAYS = 90


class MeteringService:
    """Usage, prices and shared limits; ready when its store answers."""

    def __init__(self, database: Database, *, access_control: Peer, usage_days: int = RETENTION_DAYS) -> None:
        """``usage_days``: how long records of requests are kept."""
        self._database = database
        self._feed = Feed(database)
        self._quota = QuotaStore(database)
        self._births = Births(access_control)
        self._prices = PriceStore(self._feed)
        self._ledger = Ledger(self._feed, self._prices)
        self._sink = UsageSinkServicer(self._ledger)
        self._usage_days = usage_days
        self._tasks = Tasks("metering")

    def register(self, server: GrpcServer) -> None:
        """Add the servicers to a server."""
        server.add(usage_pb2_grpc.add_UsageServicer_to_server, UsageServicer(self._ledger, self._births))
        server.add(usage_pb2_grpc.add_PricesServicer_to_server, PricesServicer(self._prices))
        server.add(usage_pb2_grpc.add_UsageSinkServicer_to_server, self._sink)
        server.add(quota_pb2_grpc.add_QuotaServicer_to_server, QuotaServicer(self._quota))

    async def start(self) -> None:
        """Prepare the store and begin the background work."""
        await self._database.prepare(MIGRATIONS)
        self._tasks.start(compact_forever(self._feed))
        self._tasks.start(sweep_forever(self._ledger, days=self._usage_days))
        self._tasks.start(self._births.follower.run())
        self._tasks.start(self._quota.sweep_forever())

    async def take_usage(self, request: pb.RecordUsageRequest) -> None:
        """Do as ``UsageSink.RecordUsage``, for a router in this process. Raises InvalidField, StoreUnavailable."""
        await self._sink.take(request)

    async def ready(self) -> bool:
        """Tell whether requests would be served."""
        return await self._database.answers()

    def metrics(self) -> Iterator[Family]:
        """Tell how many records came, and how many routers had no room for."""
        for name, text, count in (
            ("junctor_usage_recorded_total", "Records of requests that were taken.", self._sink.recorded),
            ("junctor_usage_missed_total", "Records that routers said they had no room for.", self._sink.dropped),
        ):
            yield Family(name, "counter", text, (Sample(count),))

    async def stop(self) -> None:
        """End the background work and close the store."""
        await self._tasks.stop()
        await self._database.close()
