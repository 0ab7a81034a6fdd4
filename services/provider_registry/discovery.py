"""Discovery: finds out what each provider serves, again and again, and keeps its status truthful.

One loop claims due providers from the schedule, so that one process at a time works on each; every attempt is a
task of its own. What it finds goes to the model registry first and into the provider after that, so a provider is
never READY before its models route. A model registry that is away changes no status: the attempt is repeated.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from junctor import names
from junctor.errors import JunctorError, ResourceNotFound
from junctor.v1 import provider_registry_pb2 as pb
from services.provider_registry import seed
from services.provider_registry.discovery_client import FETCH_TIMEOUT, DiscoveryFailed, ModelLister
from services.provider_registry.discovery_rules import (
    GRACE_SECONDS,
    LOST_SECONDS,
    NOTHING_SERVED,
    Served,
    retry_seconds,
    serve,
    status_after_failure,
)
from services.provider_registry.schedule import Claim, now_microseconds
from services.provider_registry.secret_store import SecretStore
from services.provider_registry.secrets import ValueUnreadable
from services.provider_registry.store import ProviderStore
from services.provider_registry.sync import ModelSync
from services.runtime.auth import Secret
from services.runtime.tasks import Tasks

_LEASE_SECONDS = 2 * FETCH_TIMEOUT
"""An attempt takes at most the time to fetch, to reach the model registry (2 s) and to sync (5 s)."""
_LOOK_SECONDS = 5.0
"""How often the schedule is looked at unasked: another replica may have written without waking this one."""
_LAST_SYNC_RETRY = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often and how patiently. Seconds."""

    interval: float = 10.0
    """Between two discoveries of a READY provider."""
    retry: float = 1.0
    """Factor on the waits after a failure."""
    grace: float = GRACE_SECONDS
    lost: float = LOST_SECONDS
    concurrency: int = 16
    """Attempts at a time."""


class _Waiting(Exception):
    """The provider lacks something that somebody must do first; the text says what."""


class Discovery:
    """Runs in every replica of the provider registry."""

    def __init__(
        self,
        providers: ProviderStore,
        keys: SecretStore,
        *,
        lister: ModelLister,
        sync: ModelSync,
        pace: Pace,
    ) -> None:
        self._providers = providers
        self._schedule = providers.schedule
        self._keys = keys
        self._lister = lister
        self._sync = sync
        self._pace = pace
        self._holder = secrets.token_hex(8)
        self._started = now_microseconds()
        self._attempts = Tasks("discovery")
        self._running = 0

    async def run(self) -> None:
        """Discover until cancelled."""
        if self._providers.feed.database.is_sqlite:
            await self._schedule.release(None)  # one process has the file: leases are of one that died
        wake = self._providers.feed.subscribe()
        try:
            while True:
                wake.clear()
                await self._wait(wake, await self._round(wake))
        finally:
            self._providers.feed.unsubscribe(wake)
            await self._attempts.stop()
            await self._schedule.release(self._holder)

    async def _round(self, wake: asyncio.Event) -> float:
        """Start what is due; return how many seconds there is nothing to do."""
        free = self._pace.concurrency - self._running
        if free <= 0:
            return _LOOK_SECONDS
        try:
            due = await self._schedule.next_due()
            if due is None or due > now_microseconds():
                return _LOOK_SECONDS if due is None else (due - now_microseconds()) / 1e6
            claims = await self._schedule.claim(self._holder, limit=free, lease=int(_LEASE_SECONDS * 1e6))
        except Exception:  # noqa: BLE001 - the store may be away for a moment
            _log.exception("could not read the discovery schedule")
            return 1.0
        for claim in claims:
            self._running += 1
            self._attempts.start(self._attempt(claim)).add_done_callback(lambda _: self._freed(wake))
        return 0.0

    def _freed(self, wake: asyncio.Event) -> None:
        self._running -= 1
        wake.set()

    async def _wait(self, wake: asyncio.Event, seconds: float) -> None:
        try:
            async with asyncio.timeout(min(max(seconds, 0.0), _LOOK_SECONDS)):
                await wake.wait()
        except TimeoutError:
            pass

    # -- one attempt

    async def _attempt(self, claim: Claim) -> None:
        tried_at = now_microseconds()
        try:
            provider = await self._providers.get(claim.workspace, claim.name)
        except ResourceNotFound:
            return
        if provider.id != claim.provider_id:
            return
        try:
            served = await self._ask(provider)
        except _Waiting as waiting:
            await self._wait_for_somebody(claim, str(waiting))
        except DiscoveryFailed as failure:
            await self._failed(claim, tried_at, f"Provider discovery failed: {failure}")
        else:
            await self._found(claim, tried_at, provider, served)

    async def _ask(self, provider: pb.Provider) -> Served:
        key = await self._key(provider)
        if provider.HasField("static_models"):
            ids: list[str] | None = list(provider.static_models.values)
        else:
            ids = await self._lister.list_ids(provider, key)
        if ids is None:
            return NOTHING_SERVED
        enabled = list(provider.enabled_models.values) if provider.HasField("enabled_models") else None
        return serve(ids, workspace=provider.workspace, enabled=enabled)

    async def _key(self, provider: pb.Provider) -> Secret | None:
        if not provider.HasField("api_key_secret_name"):
            return None
        try:
            return (await self._keys.reveal(provider.workspace, provider.api_key_secret_name))[1]
        except ResourceNotFound:
            if seed.waits_for_its_secret(provider):
                raise _Waiting(seed.WAITING) from None
            raise DiscoveryFailed(f"secret '{provider.api_key_secret_name}' does not exist") from None
        except ValueUnreadable:
            raise DiscoveryFailed(f"secret '{provider.api_key_secret_name}' cannot be decrypted") from None

    # -- its three ends

    async def _found(self, claim: Claim, tried_at: int, provider: pb.Provider, served: Served) -> None:
        try:
            applied = await self._sync.put(provider, claim.ticket, served.models)
        except JunctorError as error:
            _log.warning(
                "the model registry could not be told what a provider serves, will retry",
                extra={"provider": names.join(claim.workspace, claim.name), "reason": error.reason},
            )
            applied = False
        async with self._providers.transaction() as tx:
            if not await self._schedule.is_current(tx, claim):
                return
            if not applied:
                again = min(0.5 * 2.0 ** min(claim.failures, 10), _LAST_SYNC_RETRY) * self._pace.retry
                await self._give_back(tx, claim, tried_at, seconds=again, failures=claim.failures + 1)
                return
            await self._write_served(tx, claim, served)
            seconds = self._pace.interval
            await self._give_back(tx, claim, tried_at, seconds=seconds, failures=0, held=False)

    async def _write_served(self, tx: AsyncConnection, claim: Claim, served: Served) -> None:
        def change(provider: pb.Provider) -> None:
            provider.status = pb.PROVIDER_STATUS_READY
            provider.status_message = served.message
            del provider.served_models[:]
            for entity, upstream in served.models:
                provider.served_models.add(
                    model_entity_id=names.join(claim.workspace, entity), served_model_name=upstream
                )

        current = await self._providers.fetch(tx, claim.workspace, claim.name)
        await self._providers.put_status(tx, current, change)

    async def _failed(self, claim: Claim, tried_at: int, message: str) -> None:
        now = now_microseconds()
        async with self._providers.transaction() as tx:
            if not await self._schedule.is_current(tx, claim):
                return
            current = await self._providers.fetch(tx, claim.workspace, claim.name)
            ready = current.status == pb.PROVIDER_STATUS_READY
            if not ready and not claim.held:
                status = status_after_failure(
                    current.status,
                    failing_seconds=(now - max(claim.changed_at, self._started)) / 1e6,
                    age_seconds=(now - current.created_at.ToMicroseconds()) / 1e6,
                    grace_seconds=self._pace.grace,
                    lost_seconds=self._pace.lost,
                )
                await self._write_status(tx, current, status, message)
            failures = claim.failures + 1
            again = self._pace.interval if ready else retry_seconds(failures) * self._pace.retry
            await self._give_back(tx, claim, tried_at, seconds=again, failures=failures)
        _log.info(
            "discovery of a provider failed",
            extra={"provider": names.join(claim.workspace, claim.name), "why": message, "failures": failures},
        )

    async def _wait_for_somebody(self, claim: Claim, message: str) -> None:
        async with self._providers.transaction() as tx:
            if not await self._schedule.is_current(tx, claim):
                return
            current = await self._providers.fetch(tx, claim.workspace, claim.name)
            await self._write_status(tx, current, pb.PROVIDER_STATUS_PENDING, message)
            await self._give_back(tx, claim, None, seconds=self._pace.interval, failures=0)

    async def _write_status(
        self, tx: AsyncConnection, current: pb.Provider, status: pb.ProviderStatus.ValueType, message: str
    ) -> None:
        def change(provider: pb.Provider) -> None:
            provider.status = status
            provider.status_message = message

        await self._providers.put_status(tx, current, change)

    async def _give_back(
        self,
        tx: AsyncConnection,
        claim: Claim,
        tried_at: int | None,
        *,
        seconds: float,
        failures: int,
        held: bool | None = None,
    ) -> None:
        """Plan the next attempt ``seconds`` after the start of this one, give or take a tenth."""
        now = now_microseconds()
        start = now if tried_at is None else tried_at
        jittered = seconds * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load, protects nothing
        await self._schedule.finish(
            tx,
            claim,
            tried_at=tried_at,
            next_attempt=max(start + int(jittered * 1e6), now + int(min(seconds, 1.0) * 5e5)),
            failures=failures,
            held=claim.held if held is None else held,
        )
