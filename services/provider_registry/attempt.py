"""One attempt to discover a provider: ask it, tell the model registry, write the result.

What is found goes to the model registry first and into the provider after that, so a provider is never READY
before its models route. A model registry that is away changes no status: the attempt is repeated.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from junctor import names
from junctor.errors import JunctorError, ResourceNotFound
from junctor.v1 import provider_registry_pb2 as pb
from services.provider_registry import seed
from services.provider_registry.discovery_client import DiscoveryFailed, ModelLister
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


Models = tuple[tuple[str, str], ...]


class _Waiting(Exception):
    """The provider lacks something that somebody must do first; the text says what."""


@dataclass(slots=True)
class _Current:
    """A provider within the transaction that ends an attempt."""

    tx: AsyncConnection
    provider: pb.Provider
    store: ProviderStore
    written: bool = False

    async def write(self, status: pb.ProviderStatus.ValueType, message: str, models: Models | None = None) -> None:
        """Set status and message, and the served (entity, upstream id) if given."""

        def change(provider: pb.Provider) -> None:
            provider.status = status
            provider.status_message = message
            if models is not None:
                del provider.served_models[:]
            for entity, upstream in models or ():
                provider.served_models.add(
                    model_entity_id=names.join(provider.workspace, entity), served_model_name=upstream
                )

        put = await self.store.put_status(self.tx, self.provider, change)
        self.written = put != self.provider


class Attempts:
    """Makes attempts; one object serves all of them."""

    def __init__(
        self, providers: ProviderStore, keys: SecretStore, *, lister: ModelLister, sync: ModelSync, pace: Pace
    ) -> None:
        self._providers = providers
        self._schedule = providers.schedule
        self._keys = keys
        self._lister = lister
        self._sync = sync
        self._pace = pace
        self._started = now_microseconds()

    async def run(self, claim: Claim) -> None:
        """Discover one claimed provider and give it back."""
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
            await self._failed(claim, tried_at, str(failure))
        except Exception:  # noqa: BLE001 - one odd provider must not look as if nobody had tried it
            _log.exception("discovery of a provider broke", extra=_named(claim))
            await self._failed(claim, tried_at, "a fault of junctor itself, which is in its log")
        else:
            await self._found(claim, tried_at, provider, served)

    async def _ask(self, provider: pb.Provider) -> Served:
        key = await self._secret(provider, provider.api_key_secret_name)
        certificate = await self._secret(provider, provider.tls.client_certificate_secret_name)
        if provider.HasField("static_models"):
            ids: list[str] | None = list(provider.static_models.values)
        else:
            ids = await self._lister.list_ids(provider, key, certificate)
        if ids is None:
            return NOTHING_SERVED
        enabled = list(provider.enabled_models.values) if provider.HasField("enabled_models") else None
        return serve(ids, workspace=provider.workspace, enabled=enabled)

    async def _secret(self, provider: pb.Provider, name: str) -> Secret | None:
        if not name:
            return None
        try:
            return (await self._keys.reveal(provider.workspace, name))[1]
        except ResourceNotFound:
            if seed.waits_for_its_secret(provider):
                raise _Waiting(seed.WAITING) from None
            raise DiscoveryFailed(f"secret '{name}' does not exist") from None
        except ValueUnreadable:
            raise DiscoveryFailed(f"secret '{name}' cannot be decrypted") from None

    # -- its three ends

    async def _found(self, claim: Claim, tried_at: int, provider: pb.Provider, served: Served) -> None:
        try:
            applied = await self._sync.put(provider, claim.ticket, served.models)
        except JunctorError as error:
            _log.warning(
                "the model registry could not be told what a provider serves, will retry",
                extra=_named(claim) | {"reason": error.reason},
            )
            applied = False
        async with self._unless_overtaken(claim) as current:
            if current is None:
                return
            if not applied:
                again = min(0.5 * 2.0 ** min(claim.failures, 10), _LAST_SYNC_RETRY) * self._pace.retry
                await self._give_back(current.tx, claim, tried_at, seconds=again, failures=claim.failures + 1)
                return
            await current.write(pb.PROVIDER_STATUS_READY, served.message, served.models)
            await self._give_back(current.tx, claim, tried_at, seconds=self._pace.interval, failures=0, held=False)

    async def _failed(self, claim: Claim, tried_at: int, why: str) -> None:
        failures = claim.failures + 1
        async with self._unless_overtaken(claim) as current:
            if current is None:
                return
            provider = current.provider
            ready = provider.status == pb.PROVIDER_STATUS_READY
            if not ready and not claim.held:
                status = self._status_after_failure(claim, provider)
                await current.write(status, f"Provider discovery failed: {why}")
            again = self._pace.interval if ready else retry_seconds(failures) * self._pace.retry
            await self._give_back(current.tx, claim, tried_at, seconds=again, failures=failures)
        _log.info("discovery of a provider failed", extra=_named(claim) | {"why": why, "failures": failures})

    def _status_after_failure(self, claim: Claim, provider: pb.Provider) -> pb.ProviderStatus.ValueType:
        now = now_microseconds()
        return status_after_failure(
            provider.status,
            failing_seconds=(now - max(claim.changed_at, self._started)) / 1e6,
            age_seconds=(now - provider.created_at.ToMicroseconds()) / 1e6,
            grace_seconds=self._pace.grace,
            lost_seconds=self._pace.lost,
        )

    async def _wait_for_somebody(self, claim: Claim, message: str) -> None:
        async with self._unless_overtaken(claim) as current:
            if current is None:
                return
            await current.write(pb.PROVIDER_STATUS_PENDING, message)
            await self._give_back(current.tx, claim, None, seconds=self._pace.interval, failures=0)

    @asynccontextmanager
    async def _unless_overtaken(self, claim: Claim) -> AsyncIterator[_Current | None]:
        """A transaction with the provider in it; None if it has changed since it was claimed.

        Watchers are woken only if something was written: most re-discoveries write nothing.
        """
        current: _Current | None = None
        async with self._providers.feed.database.write() as tx:
            await self._providers.feed.lock(tx)
            if await self._schedule.is_current(tx, claim):
                provider = await self._providers.find(tx, claim.workspace, claim.name)
                if provider is not None:  # else its workspace is gone, and it is about to be
                    current = _Current(tx, provider, self._providers)
            yield current
        if current is not None and current.written:
            self._providers.feed.committed(tx)

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


def _named(claim: Claim) -> dict[str, object]:
    return {"provider": names.join(claim.workspace, claim.name)}
