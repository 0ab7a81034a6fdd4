"""Tells the model registry what each provider serves, and that a deleted provider serves nothing any more."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable

from junctor.channel import Peer
from junctor.errors import JunctorError, Unavailable
from junctor.v1 import model_registry_pb2 as pb
from junctor.v1 import model_registry_pb2_grpc
from junctor.v1 import provider_registry_pb2 as providers_pb
from services.provider_registry.discovery_rules import backend_format
from services.provider_registry.schedule import Schedule, Tombstone
from services.runtime.changes import Feed
from services.runtime.trouble import Trouble

SYNC_TIMEOUT = 5.0
"""Seconds; with the wait for the connection and the upstream's time it must fit into discovery's lease."""
_BATCH = 100
_FIRST_RETRY = 0.2
_LAST_RETRY = 5.0
_LOOK_SECONDS = 60.0
"""How often tombstones are looked for unasked: a replica may have ended before it worked its own off."""

_log = logging.getLogger(__name__)


class ModelSync:
    """Calls ``ProviderSync`` of the model registry."""

    def __init__(self, model_registry: Peer) -> None:
        """``model_registry`` shows the service token."""
        self._peer = model_registry
        self._stub = model_registry_pb2_grpc.ProviderSyncStub(model_registry.channel)
        self._trouble = Trouble(_log, "the model registry could not be told what providers serve")

    async def put(
        self,
        provider: providers_pb.Provider,
        ticket: int,
        models: Iterable[tuple[str, str]],
        *,
        workspace_id: str = "",
        settled: bool = False,
    ) -> bool:
        """Replace the set of (entity name, upstream id) that a provider serves.

        ``workspace_id``: of the workspace that it lies in, empty if unknown.
        ``settled``: the same set was put since the provider last changed, so nothing older can be under way.
        False: a newer ticket was there before. Raises the model registry's error, or PeerUnavailable.
        """
        request = pb.SyncProviderRequest(
            workspace=provider.workspace,
            provider=provider.name,
            provider_id=provider.id,
            workspace_id=workspace_id,
            provider_revision=ticket,
            host_url=provider.host_url,
            settled=settled,
            models=[
                pb.SyncedModel(entity=entity, upstream_id=upstream, backend_format=backend_format(upstream))
                for entity, upstream in models
            ],
        )
        return await self._send(request)

    async def clear(self, tombstone: Tombstone) -> None:
        """Withdraw everything that a deleted provider served. Raises like :meth:`put`."""
        await self._send(
            pb.SyncProviderRequest(
                workspace=tombstone.workspace,
                provider=tombstone.name,
                provider_id=tombstone.provider_id,
                provider_revision=tombstone.ticket,
            )
        )

    async def _send(self, request: pb.SyncProviderRequest) -> bool:
        try:
            response = await self._peer.call(self._stub.SyncProvider, request, timeout=SYNC_TIMEOUT)
        except Unavailable as error:
            self._trouble.failed(error)  # one line for all providers
            raise
        self._trouble.over()
        return response.applied


async def clear_tombstones(schedule: Schedule, feed: Feed, sync: ModelSync) -> None:
    """Withdraw deleted providers until the model registry has acknowledged each; runs until cancelled."""
    waiter = feed.subscribe()
    retry = _FIRST_RETRY
    trouble = Trouble(_log, "could not work off the deleted providers")
    try:
        while True:
            waiter.clear()
            burials = schedule.burials
            if await _work_off(schedule, sync, trouble):
                retry = _FIRST_RETRY
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await _next_burial(schedule, burials, waiter)
            else:
                await asyncio.sleep(retry)
                retry = min(2 * retry, _LAST_RETRY)
    finally:
        feed.unsubscribe(waiter)


async def _next_burial(schedule: Schedule, before: int, waiter: asyncio.Event) -> None:
    while schedule.burials == before or not waiter.is_set():  # set by the commit, which comes after the burial
        await waiter.wait()
        if schedule.burials == before:
            waiter.clear()


async def _work_off(schedule: Schedule, sync: ModelSync, trouble: Trouble) -> bool:
    """Withdraw what can be withdrawn now; tell whether nothing is left."""
    try:
        while waiting := await schedule.tombstones(limit=_BATCH):
            acknowledged = await _clear(waiting, sync)
            await schedule.forget(acknowledged)
            if len(acknowledged) < len(waiting):
                return False
    except Exception as error:  # noqa: BLE001 - the store may be away for a moment; tombstones do not get lost
        trouble.failed(error)
        return False
    trouble.over()
    return True


async def _clear(tombstones: list[Tombstone], sync: ModelSync) -> list[Tombstone]:
    acknowledged = []
    for tombstone in tombstones:
        try:
            await sync.clear(tombstone)
        except Unavailable:
            break  # the others would only wait in turn
        except JunctorError as error:
            _log.warning(
                "the model registry could not be told of a deleted provider, will retry",
                extra={"provider": f"{tombstone.workspace}/{tombstone.name}", "reason": error.reason},
            )
        else:
            acknowledged.append(tombstone)
    return acknowledged
