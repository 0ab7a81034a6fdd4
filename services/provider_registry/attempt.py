"""One attempt to discover a provider: ask it, tell the model registry, write the result.

What is found goes to the model registry first and into the provider after that, so a provider is never READY
before its models route. A model registry that is away changes no status: the attempt is repeated.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from junctor import names
from junctor.errors import JunctorError, ResourceNotFound, StoreUnavailable, Unavailable
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
from services.provider_registry.outcomes import Recorder
from services.provider_registry.schedule import Claim, Outcome, now_microseconds
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
    concurrency: int = 32
    """Attempts at a time."""


Models = tuple[tuple[str, str], ...]


class _Waiting(Exception):
    """The provider lacks something that somebody must do first; the text says what."""


@dataclass(frozen=True, slots=True)
class _New:
    """What an attempt says of a provider; ``models`` as (entity, upstream id), None: nothing is known of them."""

    status: pb.ProviderStatus.ValueType
    message: str
    models: Models | None = None

    def put(self, provider: pb.Provider) -> None:
        provider.status = self.status
        provider.status_message = self.message
        if self.models is not None:
            del provider.served_models[:]
            provider.served_models.extend(self._served(provider.workspace))

    def is_in(self, provider: pb.Provider) -> bool:
        says = (provider.status, provider.status_message) == (self.status, self.message)
        return says and (self.models is None or list(provider.served_models) == self._served(provider.workspace))

    def _served(self, workspace: str) -> list[pb.ServedModelMapping]:
        return [
            pb.ServedModelMapping(model_entity_id=names.join(workspace, entity), served_model_name=upstream)
            for entity, upstream in self.models or ()
        ]


@dataclass(slots=True)
class _Current:
    """A provider within the transaction that ends an attempt."""

    tx: AsyncConnection
    provider: pb.Provider
    store: ProviderStore
    written: bool = False

    async def write(self, new: _New) -> None:
        put = await self.store.put_status(self.tx, self.provider, new.put)
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
        self._started = time.monotonic()
        self._recorder = Recorder(providers.schedule, providers.feed)
        self.results: Counter[str] = Counter()
        """Attempts that ended: ``found``, ``unsynced`` (the model registry was not told), ``failed``, ``waiting``."""

    async def run(self, claim: Claim) -> None:
        """Discover one claimed provider and give it back. Raises StoreUnavailable when that cannot be written down."""
        tried_at = now_microseconds()
        try:
            provider, workspace_id = await self._providers.get_placed(claim.workspace, claim.name)
        except ResourceNotFound:
            return
        if provider.id != claim.provider_id:
            return
        try:
            served = await self._ask(provider)
        except _Waiting as waiting:
            await self._wait_for_somebody(claim, provider, str(waiting))
        except DiscoveryFailed as failure:
            await self._failed(claim, tried_at, provider, str(failure))
        except StoreUnavailable:  # of this service: nothing is known of the provider
            raise
        except Exception:  # noqa: BLE001 - one odd provider must not look as if nobody had tried it
            _log.exception("discovery of a provider broke", extra=_named(claim))
            await self._failed(claim, tried_at, provider, "a fault of junctor itself, which is in its log")
        else:
            await self._found(claim, tried_at, provider, served, workspace_id=workspace_id)

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

    async def _found(
        self, claim: Claim, tried_at: int, provider: pb.Provider, served: Served, *, workspace_id: str
    ) -> None:
        new = _New(pb.PROVIDER_STATUS_READY, served.message, served.models)
        try:
            settled = _is_settled(claim) and new.is_in(provider)
            applied = await self._sync.put(
                provider, claim.ticket, served.models, workspace_id=workspace_id, settled=settled
            )
        except JunctorError as error:
            if not isinstance(error, Unavailable):  # that has been said for all providers
                _log.warning(
                    "the model registry could not be told what a provider serves, will retry",
                    extra=_named(claim) | {"reason": error.reason},
                )
            applied = False
        self.results["found" if applied else "unsynced"] += 1
        if applied:
            outcome = _outcome(claim, tried_at, seconds=self._pace.interval, failures=0, held=False)
            await self._end(provider, outcome, new)
        else:
            again = min(0.5 * 2.0 ** min(claim.failures, 10), _LAST_SYNC_RETRY) * self._pace.retry
            await self._end(provider, _outcome(claim, tried_at, seconds=again, failures=claim.failures + 1), None)

    async def _failed(self, claim: Claim, tried_at: int, provider: pb.Provider, why: str) -> None:
        self.results["failed"] += 1
        failures = claim.failures + 1
        ready = provider.status == pb.PROVIDER_STATUS_READY
        again = self._pace.interval if ready else retry_seconds(failures) * self._pace.retry
        new = _New(self._status_after_failure(claim, provider), f"Provider discovery failed: {why}")
        outcome = _outcome(claim, tried_at, seconds=again, failures=failures)
        await self._end(provider, outcome, None if ready or claim.held else new)
        _log.info("discovery of a provider failed", extra=_named(claim) | {"why": why, "failures": failures})

    def _status_after_failure(self, claim: Claim, provider: pb.Provider) -> pb.ProviderStatus.ValueType:
        now = now_microseconds()
        tried = time.monotonic() - self._started  # whatever the wall clock does, nobody has failed for longer
        changed = (now - claim.changed_at) / 1e6
        return status_after_failure(
            provider.status,
            failing_seconds=min(changed, tried) if changed >= 0 else tried,
            age_seconds=(now - provider.created_at.ToMicroseconds()) / 1e6,
            grace_seconds=self._pace.grace,
            lost_seconds=self._pace.lost,
        )

    async def _wait_for_somebody(self, claim: Claim, provider: pb.Provider, message: str) -> None:
        self.results["waiting"] += 1
        outcome = _outcome(claim, None, seconds=self._pace.interval, failures=0)
        await self._end(provider, outcome, _New(pb.PROVIDER_STATUS_PENDING, message))

    async def _end(self, known: pb.Provider, outcome: Outcome, new: _New | None) -> None:
        """Give the claim back and write what is ``new`` to the provider, which was ``known`` when it was claimed.

        Whatever of this changes afterwards takes a new ticket, and then neither is written.
        """
        if new is None or new.is_in(known):
            await self._recorder.record(outcome)
            return
        async with self._unless_overtaken(outcome.claim) as current:
            if current is not None:
                await current.write(new)
                await self._schedule.finish_all(current.tx, [outcome])

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


def _outcome(claim: Claim, tried_at: int | None, *, seconds: float, failures: int, held: bool | None = None) -> Outcome:
    """Plan the next attempt ``seconds`` after the start of this one, give or take a tenth."""
    now = now_microseconds()
    start = now if tried_at is None else tried_at
    jittered = seconds * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load, protects nothing
    return Outcome(
        claim,
        tried_at=tried_at,
        next_attempt=max(start + int(jittered * 1e6), now + int(min(seconds, 1.0) * 5e5)),
        failures=failures,
        held=claim.held if held is None else held,
    )


def _is_settled(claim: Claim) -> bool:
    """Tell whether an attempt that began after the last change has succeeded, the latest one that ended."""
    return (
        claim.failures == 0
        and not claim.held
        and claim.last_attempt is not None
        and claim.last_attempt >= claim.changed_at
    )


def _named(claim: Claim) -> dict[str, object]:
    return {"provider": names.join(claim.workspace, claim.name)}
