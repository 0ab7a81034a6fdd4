"""The second half of ``min_revision``: a name that does not resolve yet may be what a new provider is about to serve.

A call that names the revision of a provider's write waits until that provider has been discovered and what was found
is in the catalog. Whether discovery is due is known to the provider registry alone: a discovery that changes nothing
leaves no trace in Watch. Calls whose name resolves never come here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from junctor import names
from junctor.errors import JunctorError, ResourceNotFound, RevisionNotReached
from junctor.v1 import provider_registry_pb2 as pb
from services.inference_router.catalog import CatalogKeeper

_FIRST_PAUSE = 0.02
_LAST_PAUSE = 0.25
"""Seconds between two questions to the provider registry; changes of the catalog are looked at at once."""
_LAG_SECONDS = 2.0
"""How long the other registry's Watch may be behind; a virtual model that is missing for longer was deleted."""
_DUE_MICROSECONDS = 50_000
"""A change makes discovery due within this time of itself; one that is over is planned again further off."""


class Discoveries:
    """The providers of some workspaces that have changed at ``since`` or after it."""

    def __init__(self, keeper: CatalogKeeper, workspaces: Collection[str], since: int) -> None:
        self._keeper = keeper
        self._workspaces = workspaces
        self._since = since
        self._over: dict[tuple[str, str, str], float] = {}
        """(workspace, name, resource_version) of discoveries that are over → since when (loop time)."""

    async def settle(self, resolves: Callable[[], bool], timeout: float) -> None:  # noqa: ASYNC109
        """Return once ``resolves`` gives True or nothing is left to wait for.

        Raises RevisionNotReached after ``timeout`` seconds.
        """
        why = ""
        try:
            async with asyncio.timeout(timeout):
                pause = _FIRST_PAUSE
                while not resolves() and (why := await self._awaited()):
                    await self._change(pause)
                    pause = min(1.5 * pause, _LAST_PAUSE)
        except TimeoutError:
            raise RevisionNotReached(f"{why or 'A provider is being discovered'}.", retry_after=1.0) from None

    async def _awaited(self) -> str:
        """Say what there is to wait for; empty for nothing."""
        for provider in self._keeper.providers_since(self._workspaces, self._since):
            ref = names.join(provider.workspace, provider.name)
            if await self._in_progress(provider):
                return f"Provider {ref} is still being discovered"
            if self._lags(provider):
                return f"What provider {ref} serves is not in force yet"
        return ""

    async def _in_progress(self, provider: pb.Provider) -> bool:
        if provider.status == pb.PROVIDER_STATUS_CREATED:
            return True
        key = (provider.workspace, provider.name, provider.resource_version)
        if key in self._over:
            return False
        request = pb.GetProviderRequest(workspace=provider.workspace, name=provider.name)
        try:
            newest = await self._keeper.ask_provider(request)
        except ResourceNotFound:
            return False
        except JunctorError:
            return True  # it will be back, or the caller's patience ends
        if newest.resource_version != provider.resource_version or _is_due(newest):
            return True
        self._over[key] = asyncio.get_running_loop().time()
        return False

    def _lags(self, provider: pb.Provider) -> bool:
        """Tell whether virtual models of what is served have not come yet; the two Watches are not in step."""
        since = self._over.get((provider.workspace, provider.name, provider.resource_version))
        if since is None or asyncio.get_running_loop().time() - since > _LAG_SECONDS:
            return False
        there = self._keeper.catalog.virtual_models
        return any(names.split(served.model_entity_id) not in there for served in provider.served_models)

    async def _change(self, seconds: float) -> None:
        """Wait for a change of the catalog, or a while."""
        clock = asyncio.get_running_loop().time
        seen, end = self._keeper.changes, clock() + seconds
        while self._keeper.changes == seen and clock() < end:  # noqa: ASYNC110 - its event has another reader
            await asyncio.sleep(0.005)


def _is_due(provider: pb.Provider) -> bool:
    # Both times are the registry's: its clock and this process's may differ.
    planned, changed = provider.next_attempt.ToMicroseconds(), provider.updated_at.ToMicroseconds()
    return planned <= changed + _DUE_MICROSECONDS
