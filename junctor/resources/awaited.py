"""Resources of :class:`junctor.AsyncClient`. Twin of :mod:`junctor.resources.blocking`: the same methods, awaited.

``workspace`` is the client's unless given. Every method raises :class:`~junctor.errors.JunctorError`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Generic, TypeVar, Unpack

from junctor.errors import ResourceExists, StaleVersion
from junctor.fields import ModelFields, ProviderChanges, ProviderFields, StatusFields, VirtualModelFields
from junctor.openai_helpers import OpenAiHelpers
from junctor.paging import AsyncPages
from junctor.records import Model, Provider, Secret, ServedModel, VirtualModel, Workspace
from junctor.request import Filter
from junctor.resources import kinds
from junctor.resources.kinds import Kind, Query
from junctor.resources.waiting import INTERVAL, Wait, gateway_answers, not_yet, provider_ready
from junctor.transport import AsyncTransport

T = TypeVar("T")


class AsyncSender:
    """Something that sends for a workspace."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    def _in(self, workspace: str | None) -> str:
        return workspace or self._transport.options.settings.workspace


class AsyncCollection(AsyncSender, Generic[T]):
    """The calls that every resource has."""

    def __init__(self, transport: AsyncTransport, kind: Kind[T]) -> None:
        super().__init__(transport)
        self._kind = kind

    async def get(self, name: str, *, workspace: str | None = None) -> T:
        """Read one. Raises ResourceNotFound."""
        return await self._transport.send(self._kind.get_one(self._in(workspace), name))

    def list(
        self,
        *,
        workspace: str | None = None,
        filter: Filter | None = None,  # noqa: A002 - the name in the contract
        sort: str | None = None,
        page_size: int | None = None,
    ) -> AsyncPages[T]:
        """List; the result is iterated over and asks for pages as needed. Workspace ``-`` means all."""
        query = Query(filter, sort, page_size)
        return AsyncPages(lambda number: self._transport.send(self._kind.get_page(self._in(workspace), query, number)))

    async def delete(self, name: str, *, workspace: str | None = None, resource_version: str | None = None) -> None:
        """Delete one. Raises ResourceNotFound; StaleVersion if it is not the given version any more."""
        await self._transport.send(self._kind.delete(self._in(workspace), name, resource_version))

    async def _create(self, name: str, workspace: str | None, exist_ok: bool, fields: dict[str, Any]) -> T:
        try:
            return await self._transport.send(self._kind.create(self._in(workspace), name, fields))
        except ResourceExists:
            if not exist_ok:
                raise
            return await self.get(name, workspace=workspace)

    async def _change(self, name: str, workspace: str | None, fields: dict[str, Any]) -> T:
        return await self._transport.send(self._kind.change(self._in(workspace), name, fields))


class AsyncWorkspaces(AsyncCollection[Workspace]):
    """Workspaces."""

    async def create(self, name: str, *, description: str | None = None, exist_ok: bool = False) -> Workspace:
        """Create; with ``exist_ok`` one of that name is returned as it is."""
        return await self._create(name, None, exist_ok, {"description": description})

    async def update(self, name: str, *, description: str | None, limits: Mapping[str, Any] | None = None) -> Workspace:
        """Set the description, and the limits of all callers together if given; ``{}`` lifts them."""
        return await self._change(
            name, None, {"description": description} | ({} if limits is None else {"limits": limits})
        )


class AsyncSecrets(AsyncCollection[Secret]):
    """Secrets. Values go in and never come out."""

    async def create(
        self, name: str, value: str, *, workspace: str | None = None, description: str | None = None
    ) -> Secret:
        """Create. Raises ResourceExists."""
        return await self._create(name, workspace, False, {"value": value, "description": description})

    async def update(
        self, name: str, *, workspace: str | None = None, value: str | None = None, description: str | None = None
    ) -> Secret:
        """Change what is given; requests use a new value within a second."""
        given = {"value": value, "description": description}
        return await self._change(name, workspace, {key: entry for key, entry in given.items() if entry is not None})


class AsyncVirtualModels(AsyncCollection[VirtualModel]):
    """Virtual models: the names that callers use."""

    async def create(
        self, name: str, *, workspace: str | None = None, exist_ok: bool = False, **fields: Unpack[VirtualModelFields]
    ) -> VirtualModel:
        """Create; with ``exist_ok`` one of that name is returned as it is."""
        return await self._create(name, workspace, exist_ok, {**fields})

    async def update(
        self, name: str, *, workspace: str | None = None, **fields: Unpack[VirtualModelFields]
    ) -> VirtualModel:
        """Change what is given; None keeps, but for ``routing``, which it clears."""
        return await self._change(name, workspace, {**fields})


class AsyncProviders(AsyncCollection[Provider]):
    """Providers."""

    async def create(
        self,
        name: str,
        host_url: str,
        *,
        workspace: str | None = None,
        exist_ok: bool = False,
        **fields: Unpack[ProviderFields],
    ) -> Provider:
        """Create; its models route once it is READY (:meth:`Models.wait_for_provider`)."""
        return await self._create(name, workspace, exist_ok, {"host_url": host_url, **fields})

    async def update(
        self, name: str, host_url: str, *, workspace: str | None = None, **fields: Unpack[ProviderFields]
    ) -> Provider:
        """Replace as a whole: what is not given is dropped, the name of its secret too. Creates when absent."""
        return await self._change(name, workspace, {"host_url": host_url, **fields})

    async def modify(self, name: str, *, workspace: str | None = None, **changes: Unpack[ProviderChanges]) -> Provider:
        """Change what is given and keep the rest. Raises StaleVersion if others keep changing it."""
        for _ in range(kinds.MODIFY_ATTEMPTS - 1):
            try:
                return await self._modify_once(name, workspace, {**changes})
            except StaleVersion:
                continue
        return await self._modify_once(name, workspace, {**changes})

    async def drain(self, name: str, *, workspace: str | None = None) -> Provider:
        """Take no new calls; those under way finish."""
        return await self.modify(name, workspace=workspace, admin_state="DRAINING")

    async def disable(self, name: str, *, workspace: str | None = None) -> Provider:
        """Take no calls."""
        return await self.modify(name, workspace=workspace, admin_state="DISABLED")

    async def enable(self, name: str, *, workspace: str | None = None) -> Provider:
        """Take calls again."""
        return await self.modify(name, workspace=workspace, admin_state="ACTIVE")

    async def reset(self, name: str, *, workspace: str | None = None) -> Provider:
        """Have every router forget its failures, so that it is tried again at once."""
        return await self._transport.send(kinds.provider_reset(self._in(workspace), name))

    async def update_status(
        self, name: str, *, workspace: str | None = None, **fields: Unpack[StatusFields]
    ) -> Provider:
        """Set the status by hand; it holds until the next successful discovery."""
        return await self._transport.send(kinds.provider_status(self._in(workspace), name, {**fields}))

    async def _modify_once(self, name: str, workspace: str | None, changes: dict[str, Any]) -> Provider:
        provider = await self.get(name, workspace=workspace)
        return await self._change(name, workspace, kinds.changed_provider(provider, changes))


class AsyncServedModels(AsyncSender):
    """What can be called now."""

    async def list(self, *, workspace: str | None = None) -> tuple[ServedModel, ...]:
        """List the names of a workspace that route."""
        return await self._transport.send(kinds.served_models(self._in(workspace)))

    async def get(self, name: str, *, workspace: str | None = None) -> ServedModel:
        """Read one. Raises NoRoute."""
        return await self._transport.send(kinds.served_model(self._in(workspace), name))


class AsyncModels(AsyncCollection[Model], OpenAiHelpers):
    """Model entities, and helpers for OpenAI's SDK."""

    def __init__(self, transport: AsyncTransport) -> None:
        super().__init__(transport, kinds.MODELS)
        self._settings = transport.options.settings

    async def create(
        self, name: str, *, workspace: str | None = None, exist_ok: bool = False, **fields: Unpack[ModelFields]
    ) -> Model:
        """Create a catalogue entry; with ``exist_ok`` one of that name is returned as it is."""
        return await self._create(name, workspace, exist_ok, {**fields})

    async def update(self, name: str, *, workspace: str | None = None, **fields: Unpack[ModelFields]) -> Model:
        """Change what is given; None keeps, but for ``backend_format``, which it clears."""
        return await self._change(name, workspace, {**fields})

    async def wait_for_provider(
        self,
        name: str,
        *,
        workspace: str | None = None,
        timeout: float = 60.0,  # noqa: ASYNC109 - as in the blocking twin
    ) -> Provider:
        """Return the provider once its models route. Raises ProviderNotReady at ERROR, or after the seconds."""
        at, wait = self._in(workspace), Wait(time.monotonic() + timeout)
        while True:
            provider = await self._transport.send(kinds.PROVIDERS.get_one(at, name))
            if provider_ready(provider):
                with not_yet():
                    await self._transport.send(kinds.provider_ready(at, name))
                    return provider
            wait.check(provider, time.monotonic())
            await self._transport.sleep(INTERVAL)

    async def wait_for_gateway(
        self,
        *,
        timeout: float = 60.0,  # noqa: ASYNC109 - as in the blocking twin
    ) -> None:
        """Return once the gateway serves requests. Raises NotReady after the seconds."""
        until = time.monotonic() + timeout
        while True:
            with gateway_answers(last=time.monotonic() >= until):
                await self._transport.send(kinds.health())
                return
            await self._transport.sleep(INTERVAL)
