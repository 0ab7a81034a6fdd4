"""The secret values that providers need, fetched as entries arrive and dropped when Watch says so.

Watch brings names and versions, never values; a value is fetched by the one RPC that returns it. A registry that
cannot be reached is not a deletion: the value that is known stays in force and the fetch is tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping

from junctor.channel import Peer
from junctor.errors import JunctorError, ResourceNotFound
from junctor.v1 import secrets_pb2 as pb
from junctor.v1 import secrets_pb2_grpc
from services.runtime.following import Follower
from services.runtime.tasks import Tasks

_RETRY_SECONDS = 0.5
_ACCESS_TIMEOUT = 5.0

_log = logging.getLogger(__name__)

Key = tuple[str, str]


class SecretValues:
    """Values by (workspace, name), for those secrets only that somebody uses."""

    def __init__(self, provider_registry: Peer, *, on_change: Callable[[Iterable[Key]], None]) -> None:
        """``on_change`` hears which users have to be looked at again."""
        self._peer = provider_registry
        self._access = secrets_pb2_grpc.SecretAccessStub(provider_registry.channel)
        self._on_change = on_change
        self._values: dict[Key, str] = {}
        self._versions: dict[Key, int] = {}
        self._users: dict[Key, set[Key]] = {}
        self._used: dict[Key, frozenset[Key]] = {}
        self._fetching: dict[Key, asyncio.Task[None]] = {}
        self._tasks = Tasks("secret values")
        stub = secrets_pb2_grpc.SecretStoreStub(provider_registry.channel)
        self.follower: Follower[pb.Secret] = Follower("secrets", provider_registry.shown(stub.WatchSecrets), self)

    def want(self, secrets: Collection[Key], user: Key) -> dict[Key, str]:
        """Return the values that are known; the others are fetched, and ``user`` hears of each.

        They take the place of what ``user`` wanted before.
        """
        before = self._used.get(user, frozenset())
        for secret in before.difference(secrets):
            self._leave(secret, user)
        if not secrets:
            self._used.pop(user, None)
            return {}
        self._used[user] = frozenset(secrets)
        for secret in secrets:
            self._users.setdefault(secret, set()).add(user)
            if secret not in self._values and secret not in self._fetching:
                self._fetch(secret)
        return {secret: self._values[secret] for secret in secrets if secret in self._values}

    def forget(self, user: Key) -> None:
        """``user`` needs no secret any more; a value that nobody uses is dropped."""
        self.want((), user)

    def _leave(self, secret: Key, user: Key) -> None:
        users = self._users[secret]
        users.discard(user)
        if not users:
            del self._users[secret]
            self._values.pop(secret, None)
            self._versions.pop(secret, None)

    def settled(self) -> bool:
        """Tell whether every value that can be had has been fetched."""
        return self.follower.synced.is_set() and not self._fetching

    async def settle(self) -> None:
        """Return once no fetch is under way."""
        while self._fetching:
            await asyncio.wait(tuple(self._fetching.values()))

    def known(self) -> Mapping[Key, str]:
        """Return the values that are in force, by (workspace, name)."""
        return dict(self._values)

    def versions(self) -> Mapping[Key, int]:
        """Return the version of each value that came from the registry, by way of whom ever."""
        return dict(self._versions)

    def confirmed(self) -> bool:
        """Tell whether each value is at least of the revision that the follower has reached."""
        return not self._fetching and self._versions.keys() >= self._values.keys()

    def restore(self, values: Mapping[Key, str], versions: Mapping[Key, int] | None = None) -> None:
        """Take values of an earlier run, or another router's, in the place of all that are known.

        They hold until a registry says otherwise; ask for each by :meth:`want`. Those without a version are fetched
        again when it speaks.
        """
        self._values = dict(values)
        self._versions = dict(versions or {})

    def drop_unused(self) -> None:
        """Forget values that nobody has asked for."""
        for key in self._values.keys() - self._users.keys():
            del self._values[key]
            self._versions.pop(key, None)

    def replace(self, resources: list[pb.Secret]) -> None:
        """Take a snapshot of the secrets that exist."""
        fresh = {(secret.workspace, secret.name): secret for secret in resources}
        for key in list(self._users):
            if key in fresh:
                # Made anew while nobody watched, a secret has the version of the old one: fetched whatever it says.
                self._fetch(key)
            else:
                self._gone(key)

    def apply(self, resource: pb.Secret, *, deleted: bool) -> None:
        """Take one change."""
        key = (resource.workspace, resource.name)
        if key not in self._users:
            return
        if deleted:
            self._gone(key)
        else:
            self._seen(key, resource.value_version)

    async def stop(self) -> None:
        """End the fetches under way."""
        await self._tasks.stop()

    def _seen(self, key: Key, version: int) -> None:
        # A secret made anew counts its versions from 1 again, so any other version is a change.
        if key not in self._values or self._versions.get(key) != version:
            self._fetch(key)

    def _gone(self, key: Key) -> None:
        running = self._fetching.get(key)
        if running is not None and running is not asyncio.current_task():
            self._fetching.pop(key).cancel()  # it may have read the value before the deletion
        self._versions.pop(key, None)
        if self._values.pop(key, None) is not None:
            self._on_change(tuple(self._users[key]))

    def _fetch(self, key: Key) -> None:
        if (running := self._fetching.pop(key, None)) is not None:
            running.cancel()  # it may have read the value before the change
        self._fetching[key] = self._tasks.start(self._fetch_until_known(key))

    async def _fetch_until_known(self, key: Key) -> None:
        request = pb.AccessSecretRequest(workspace=key[0], name=key[1])
        try:
            while key in self._users:
                try:
                    answer = await self._peer.call(self._access.AccessSecret, request, timeout=_ACCESS_TIMEOUT)
                except ResourceNotFound:
                    self._gone(key)
                    return
                except JunctorError as error:
                    _log.warning("could not fetch secret %s/%s, will try again", *key, extra={"reason": error.reason})
                    await asyncio.sleep(_RETRY_SECONDS)
                    continue
                self._learned(key, answer)
                return
        finally:
            if self._fetching.get(key) is asyncio.current_task():
                del self._fetching[key]

    def _learned(self, key: Key, answer: pb.AccessSecretResponse) -> None:
        users = self._users.get(key)
        if users is None:
            return
        self._versions[key] = answer.value_version
        if self._values.get(key) != answer.value:
            self._values[key] = answer.value
            self._on_change(tuple(users))
