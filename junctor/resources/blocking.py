"""Resources of :class:`junctor.Client`. Twin of :mod:`junctor.resources.awaited`: the same methods, without await.

``workspace`` is the client's unless given. Every method raises :class:`~junctor.errors.JunctorError`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Generic, TypeVar, Unpack

from junctor.errors import ResourceExists, StaleVersion
from junctor.fields import ModelFields, ProviderChanges, ProviderFields, StatusFields, VirtualModelFields
from junctor.openai_helpers import OpenAiHelpers
from junctor.paging import Pages
from junctor.records import Model, Provider, Secret, ServedModel, VirtualModel, Workspace
from junctor.request import Filter
from junctor.resources import kinds
from junctor.resources.kinds import Kind, Query
from junctor.resources.waiting import INTERVAL, Wait, gateway_answers, not_yet, provider_ready
from junctor.transport import Transport

T = TypeVar("T")


class Sender:
    """Something that sends for a workspace."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def _in(self, workspace: str | None) -> str:
        return workspace or self._transport.options.settings.workspace


class Collection(Sender, Generic[T]):
    """The calls that every resource has."""

    def __init__(self, transport: Transport, kind: Kind[T]) -> None:
        super().__init__(transport)
        self._kind = kind

    def get(self, name: str, *, workspace: str | None = None) -> T:
        """Read one. Raises ResourceNotFound."""
        return self._transport.send(self._kind.get_one(self._in(workspace), name))

    def list(
        self,
        *,
        workspace: str | None = None,
        filter: Filter | None = None,  # noqa: A002 - the name in the contract
        sort: str | None = None,
        page_size: int | None = None,
    ) -> Pages[T]:
        """List; the result is iterated over and asks for pages as needed. Workspace ``-`` means all."""
        query = Query(filter, sort, page_size)
        return Pages(lambda number: self._transport.send(self._kind.get_page(self._in(workspace), query, number)))

    def delete(self, name: str, *, workspace: str | None = None, resource_version: str | None = None) -> None:
        """Delete one. Raises ResourceNotFound; StaleVersion if it is not the given version any more."""
        self._transport.send(self._kind.delete(self._in(workspace), name, resource_version))

    def _create(self, name: str, workspace: str | None, exist_ok: bool, fields: dict[str, Any]) -> T:
        try:
            return self._transport.send(self._kind.create(self._in(workspace), name, fields))
        except ResourceExists:
            if not exist_ok:
                raise
            return self.get(name, workspace=workspace)

    def _change(self, name: str, workspace: str | None, fields: dict[str, Any]) -> T:
        return self._transport.send(self._kind.change(self._in(workspace), name, fields))


class Workspaces(Collection[Workspace]):
    """Workspaces."""

    def create(self, name: str, *, description: str | None = None, exist_ok: bool = False) -> Workspace:
        """Create; with ``exist_ok`` one of that name is returned as it is."""
        return self._create(name, None, exist_ok, {"description": description})

    def update(self, name: str, *, description: str | None, limits: Mapping[str, Any] | None = None) -> Workspace:
        """Set the description, and the limits of all callers together if given; ``{}`` lifts them."""
        return self._change(name, None, {"description": description} | ({} if limits is None else {"limits": limits}))


class Secrets(Collection[Secret]):
    """Secrets. Values go in and never come out."""

    def create(self, name: str, value: str, *, workspace: str | None = None, description: str | None = None) -> Secret:
        """Create. Raises ResourceExists."""
        return self._create(name, workspace, False, {"value": value, "description": description})

    def update(
        self, name: str, *, workspace: str | None = None, value: str | None = None, description: str | None = None
    ) -> Secret:
        """Change what is given; requests use a new value within a second."""
        given = {"value": value, "description": description}
        return self._change(name, workspace, {key: entry for key, entry in given.items() if entry is not None})


class VirtualModels(Collection[VirtualModel]):
    """Virtual models: the names that callers use."""

    def create(
        self, name: str, *, workspace: str | None = None, exist_ok: bool = False, **fields: Unpack[VirtualModelFields]
    ) -> VirtualModel:
        """Create; with ``exist_ok`` one of that name is returned as it is."""
        return self._create(name, workspace, exist_ok, {**fields})

    def update(self, name: str, *, workspace: str | None = None, **fields: Unpack[VirtualModelFields]) -> VirtualModel:
        """Change what is given; None keeps, but for ``routing``, which it clears."""
        return self._change(name, workspace, {**fields})


class Providers(Collection[Provider]):
    """Providers."""

    def create(
        self,
        name: str,
        host_url: str,
        *,
        workspace: str | None = None,
        exist_ok: bool = False,
        **fields: Unpack[ProviderFields],
    ) -> Provider:
        """Create; its models route once it is READY (:meth:`Models.wait_for_provider`)."""
        return self._create(name, workspace, exist_ok, {"host_url": host_url, **fields})

    def update(
        self, name: str, host_url: str, *, workspace: str | None = None, **fields: Unpack[ProviderFields]
    ) -> Provider:
        """Replace as a whole: what is not given is dropped, the name of its secret too. Creates when absent."""
        return self._change(name, workspace, {"host_url": host_url, **fields})

    def modify(self, name: str, *, workspace: str | None = None, **changes: Unpack[ProviderChanges]) -> Provider:
        """Change what is given and keep the rest. Raises StaleVersion if others keep changing it."""
        for _ in range(kinds.MODIFY_ATTEMPTS - 1):
            try:
                return self._modify_once(name, workspace, {**changes})
            except StaleVersion:
                continue
        return self._modify_once(name, workspace, {**changes})

    def drain(self, name: str, *, workspace: str | None = None) -> Provider:
        """Take no new calls; those under way finish."""
        return self.modify(name, workspace=workspace, admin_state="DRAINING")

    def disable(self, name: str, *, workspace: str | None = None) -> Provider:
        """Take no calls."""
        return self.modify(name, workspace=workspace, admin_state="DISABLED")

    def enable(self, name: str, *, workspace: str | None = None) -> Provider:
        """Take calls again."""
        return self.modify(name, workspace=workspace, admin_state="ACTIVE")

    def reset(self, name: str, *, workspace: str | None = None) -> Provider:
        """Have every router forget its failures, so that it is tried again at once."""
        return self._transport.send(kinds.provider_reset(self._in(workspace), name))

    def update_status(self, name: str, *, workspace: str | None = None, **fields: Unpack[StatusFields]) -> Provider:
        """Set the status by hand; it holds until the next successful discovery."""
        return self._transport.send(kinds.provider_status(self._in(workspace), name, {**fields}))

    def _modify_once(self, name: str, workspace: str | None, changes: dict[str, Any]) -> Provider:
        return self._change(name, workspace, kinds.changed_provider(self.get(name, workspace=workspace), changes))


class ServedModels(Sender):
    """What can be called now."""

    def list(self, *, workspace: str | None = None) -> tuple[ServedModel, ...]:
        """List the names of a workspace that route."""
        return self._transport.send(kinds.served_models(self._in(workspace)))

    def get(self, name: str, *, workspace: str | None = None) -> ServedModel:
        """Read one. Raises NoRoute."""
        return self._transport.send(kinds.served_model(self._in(workspace), name))


class Models(Collection[Model], OpenAiHelpers):
    """Model entities, and helpers for OpenAI's SDK."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, kinds.MODELS)
        self._settings = transport.options.settings

    def create(
        self, name: str, *, workspace: str | None = None, exist_ok: bool = False, **fields: Unpack[ModelFields]
    ) -> Model:
        """Create a catalogue entry; with ``exist_ok`` one of that name is returned as it is."""
        return self._create(name, workspace, exist_ok, {**fields})

    def update(self, name: str, *, workspace: str | None = None, **fields: Unpack[ModelFields]) -> Model:
        """Change what is given; None keeps, but for ``backend_format``, which it clears."""
        return self._change(name, workspace, {**fields})

    def wait_for_provider(self, name: str, *, workspace: str | None = None, timeout: float = 60.0) -> Provider:
        """Return the provider once its models route. Raises ProviderNotReady at ERROR, or after the seconds."""
        at, wait = self._in(workspace), Wait(time.monotonic() + timeout)
        while True:
            provider = self._transport.send(kinds.PROVIDERS.get_one(at, name))
            if provider_ready(provider):
                with not_yet():
                    self._transport.send(kinds.provider_ready(at, name))
                    return provider
            wait.check(provider, time.monotonic())
            self._transport.sleep(INTERVAL)

    def wait_for_gateway(self, *, timeout: float = 60.0) -> None:
        """Return once the gateway serves requests. Raises NotReady after the seconds."""
        until = time.monotonic() + timeout
        while True:
            with gateway_answers(last=time.monotonic() >= until):
                self._transport.send(kinds.health())
                return
            self._transport.sleep(INTERVAL)
