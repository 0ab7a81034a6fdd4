"""The catalog as parts that another router may take over: what each registry said, and where its Watch goes on.

A copy that is taken holds until the registry itself speaks. Its tokens make the followers resume where the giver was,
so what changed since comes as changes; a token that the registry does not take means a snapshot, as ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from junctor import names
from junctor.v1 import provider_registry_pb2 as pb
from junctor.v1 import router_peers_pb2 as ppb
from junctor.v1 import virtual_models_pb2 as vpb
from services.inference_router.catalog import CatalogKeeper
from services.inference_router.secret_values import Key
from services.runtime.state_parts import Part, PartRefused, Version

_MOST_TOKEN = 256
"""Characters; a token has the epoch and a number of at most 19 digits."""

MessageT = TypeVar("MessageT", bound=Message)


class _CatalogPart:
    """What both parts have in common: one store of the catalog."""

    name: str

    def __init__(self, keeper: CatalogKeeper) -> None:
        self._keeper = keeper

    def version(self) -> Version | None:
        """Return how new what is held is; None: nothing whole is held."""
        return self._keeper.version(self.name)

    def wanted(self) -> bool:
        """Tell whether a copy could be of use: not once the registry has spoken."""
        return not self._keeper.spoken(self.name)

    def _fits(self, version: Version) -> bool:
        if not self.wanted() or self._keeper.connected(self.name):
            return False  # changes that come just now would be changes of another state
        held = self.version()
        return held is None or version.newer_than(held)


class ProviderPart(_CatalogPart):
    """Providers, and the secrets that they need."""

    name = "provider_registry"

    async def give(self) -> Part:
        """Return a copy. Its tokens are those of this very state."""
        keeper, secrets = self._keeper, self._keeper.secrets
        version = keeper.version(self.name)
        assert version is not None
        messages, values, versions = keeper.messages(), secrets.known(), secrets.versions()
        token = keeper.providers.token
        # Resuming after a value that is still being fetched would miss it.
        secrets_token = secrets.follower.token if secrets.confirmed() else ""

        def encode() -> bytes:
            state = ppb.ProviderState(providers=messages, providers_token=token, secrets_token=secrets_token)
            for (workspace, name), value in values.items():
                value_version = versions.get((workspace, name), 0)
                state.secrets.add(workspace=workspace, name=name, value=value, value_version=value_version)
            return state.SerializeToString()

        return Part(self.name, version, await asyncio.to_thread(encode))

    async def take(self, part: Part) -> bool:
        """Put a copy in the place of what is held, if it is newer. Raises PartRefused."""
        state = await asyncio.to_thread(_decoded, ppb.ProviderState, part.data)
        _check((*state.providers, *state.secrets), (state.providers_token, state.secrets_token))
        if not self._fits(part.version):
            return False
        values: dict[Key, str] = {(each.workspace, each.name): each.value for each in state.secrets}
        versions: dict[Key, int] = {(s.workspace, s.name): s.value_version for s in state.secrets if s.value_version}
        self._keeper.take_providers(state.providers, values, part.version, value_versions=versions)
        self._keeper.providers.resume_from(state.providers_token)
        self._keeper.secrets.follower.resume_from(state.secrets_token)
        return True


class VirtualModelPart(_CatalogPart):
    """Virtual models."""

    name = "model_registry"

    async def give(self) -> Part:
        """Return a copy. Its token is that of this very state."""
        version = self._keeper.version(self.name)
        assert version is not None
        messages, token = self._keeper.virtual_model_messages(), self._keeper.virtual_models.token

        def encode() -> bytes:
            return ppb.VirtualModelState(virtual_models=messages, virtual_models_token=token).SerializeToString()

        return Part(self.name, version, await asyncio.to_thread(encode))

    async def take(self, part: Part) -> bool:
        """Put a copy in the place of what is held, if it is newer. Raises PartRefused."""
        state = await asyncio.to_thread(_decoded, ppb.VirtualModelState, part.data)
        _check(state.virtual_models, (state.virtual_models_token,))
        if not self._fits(part.version):
            return False
        self._keeper.take_virtual_models(state.virtual_models, part.version)
        self._keeper.virtual_models.resume_from(state.virtual_models_token)
        return True


def _decoded(kind: type[MessageT], data: bytes) -> MessageT:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise PartRefused("the bytes are not the message that they should be") from None


def _check(resources: Iterable[pb.Provider | ppb.SecretValue | vpb.VirtualModel], tokens: Iterable[str]) -> None:
    """Refuse what no registry would have said."""
    if any(len(token) > _MOST_TOKEN or not token.isascii() for token in tokens):
        raise PartRefused("a Watch token is none")
    if not all(names.is_name(each.workspace) and names.is_name(each.name) for each in resources):
        raise PartRefused("a resource has a name that breaks the rule of names")
