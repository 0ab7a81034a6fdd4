"""Metering as one object: its store, its servicers, its background work. Lives in the process of access control."""

from __future__ import annotations

from junctor.channel import Peer
from junctor.v1 import quota_pb2_grpc
from services.metering.quota import QuotaStore
from services.metering.quota_servicer import QuotaServicer
from services.metering.store import MIGRATIONS
from services.runtime.changes import Feed
from services.runtime.db import Database
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
        self._access_control = access_control
        self._usage_days = usage_days
        self._tasks = Tasks("metering")

    def register(self, server: GrpcServer) -> None:
        """Add the servicers to a server."""
        server.add(quota_pb2_grpc.add_QuotaServicer_to_server, QuotaServicer(self._quota))

    async def start(self) -> None:
        """Prepare the store and begin the background work."""
        await self._database.prepare(MIGRATIONS)
        self._tasks.start(compact_forever(self._feed))
        self._tasks.start(self._quota.sweep_forever())

    async def ready(self) -> bool:
        """Tell whether requests would be served."""
        return await self._database.answers()

    async def stop(self) -> None:
        """End the background work and close the store."""
        await self._tasks.stop()
        await self._database.close()
