"""What every process knows of keys and members: look-ups in memory, brought up to date by Watch.

A key that was revoked stays so, whatever a later snapshot says: one from a store that was restored from a backup has
forgotten it. All changes and all reads happen on the event loop.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from google.protobuf.timestamp_pb2 import Timestamp

from junctor.v1 import access_pb2 as pb
from services.access.identity import Caller, Identity, Kind, Limits, model_pattern
from services.access.keys import hashes_of
from services.access.roles import Role, narrowed


class AccessBook:
    """Keys by hash and id, roles by member. :attr:`generation` moves with every change."""

    def __init__(self, admins: frozenset[str] = frozenset()) -> None:
        """``admins`` are members, as :attr:`Identity.member_names` has them, that may do everything everywhere."""
        self._admins = admins
        self.generation = 0
        """Whoever keeps what this book said asks again when it has moved."""
        self.revoked: set[str] = set()
        """Hashes of every key that was ever seen revoked."""
        self._keys: dict[str, pb.KeyRecord] = {}
        self._hash_of: dict[str, str] = {}
        self._roles: dict[str, dict[str, Role]] = {}
        """Member → workspace → role."""
        self.keys = _Keys(self)
        self.members = _Members(self)

    # -- asking

    def key(self, value: str, *, now: float | None = None) -> Caller | None:
        """Return whose key a value is; None if it is nobody's, revoked or expired."""
        for hashed in hashes_of(value):
            if (record := self._keys.get(hashed)) is not None:
                return self._caller_of_key(record, time.time() if now is None else now)
        return None

    def key_by_id(self, key_id: str, *, now: float | None = None) -> Caller | None:
        """Return who has the key of this id; None as in :meth:`key`."""
        record = self._keys.get(self._hash_of.get(key_id, ""))
        return None if record is None else self._caller_of_key(record, time.time() if now is None else now)

    def user(self, identity: Identity) -> Caller:
        """Return what a user may do by the members of all workspaces."""
        everywhere = Role.NONE if self._admins.isdisjoint(identity.member_names) else Role.PLATFORM_ADMIN
        return Caller(identity, everywhere=everywhere, roles=self._roles_of(identity))

    def expiring(self) -> Mapping[str, float]:
        """Return when each living key that ends will end, UNIX time by id: for metrics."""
        ends = {}
        for record in self._keys.values():
            if record.key.HasField("expires_at") and record.hash not in self.revoked:
                ends[record.key.id] = _unix(record.key.expires_at)
        return ends

    def records(self) -> tuple[list[pb.KeyRecord], list[pb.Member]]:
        """Return everything, to be kept."""
        return list(self._keys.values()), list(self.members.all.values())

    def _caller_of_key(self, record: pb.KeyRecord, now: float) -> Caller | None:
        key = record.key
        expires = _unix(key.expires_at) if key.HasField("expires_at") else None
        if record.hash in self.revoked or (expires is not None and expires <= now):
            return None
        identity = Identity(Kind.KEY, key.id, permissions=narrowed(key.scopes), expires=expires)
        return Caller(
            identity,
            everywhere=Role.PLATFORM_ADMIN if key.role == pb.ROLE_PLATFORM_ADMIN else Role.NONE,
            roles=self._with_own(self._roles_of(identity), key),
            models=tuple(model_pattern(pattern) for pattern in key.models),
            limits=Limits.of(key.limits),
            tags=dict(key.tags),
        )

    def _roles_of(self, identity: Identity) -> dict[str, Role]:
        found: dict[str, Role] = {}
        for name in identity.member_names:
            for workspace, role in self._roles.get(name, {}).items():
                found[workspace] = max(role, found.get(workspace, Role.NONE))
        return found

    @staticmethod
    def _with_own(roles: dict[str, Role], key: pb.ApiKey) -> dict[str, Role]:
        if key.workspace:
            roles[key.workspace] = max(Role(key.role), roles.get(key.workspace, Role.NONE))
        return roles

    # -- being told

    def take_key(self, record: pb.KeyRecord) -> None:
        """Take a key as it is now."""
        before = self._hash_of.get(record.key.id)
        if before is not None and before != record.hash:
            self._keys.pop(before, None)
        self._keys[record.hash] = record
        self._hash_of[record.key.id] = record.hash
        if record.key.HasField("revoked_at"):
            self.revoked.add(record.hash)

    def drop_keys(self) -> None:
        """Forget every key, but not which were revoked."""
        self._keys.clear()
        self._hash_of.clear()

    def drop_key(self, record: pb.KeyRecord) -> None:
        """Forget a key: its row is gone."""
        self._keys.pop(record.hash, None)
        self._hash_of.pop(record.key.id, None)

    def grant(self, members: Iterable[pb.Member]) -> None:
        """Take the roles of all members of all workspaces."""
        self._roles.clear()
        for member in members:
            role = max((Role(number) for number in member.roles if number in _GRANTABLE), default=Role.NONE)
            self._roles.setdefault(member.principal, {})[member.workspace] = role
        self.generation += 1


class _Keys:
    """The book as the follower of key records sees it."""

    def __init__(self, book: AccessBook) -> None:
        self._book = book

    def replace(self, resources: list[pb.KeyRecord]) -> None:
        self._book.drop_keys()
        for record in resources:
            self._book.take_key(record)
        self._book.generation += 1

    def apply(self, resource: pb.KeyRecord, *, deleted: bool) -> None:
        if deleted:
            self._book.drop_key(resource)
        else:
            self._book.take_key(resource)
        self._book.generation += 1


class _Members:
    """The book as the follower of members sees it."""

    def __init__(self, book: AccessBook) -> None:
        self._book = book
        self.all: dict[tuple[str, str], pb.Member] = {}

    def replace(self, resources: list[pb.Member]) -> None:
        self.all = {(member.workspace, member.principal): member for member in resources}
        self._book.grant(self.all.values())

    def apply(self, resource: pb.Member, *, deleted: bool) -> None:
        at = (resource.workspace, resource.principal)
        if deleted:
            self.all.pop(at, None)
        else:
            self.all[at] = resource
        self._book.grant(self.all.values())


_GRANTABLE = frozenset((pb.ROLE_VIEWER, pb.ROLE_EDITOR, pb.ROLE_ADMIN))
"""What a member may be; a number that a later release may send is none of them."""


def _unix(timestamp: Timestamp) -> float:
    return timestamp.seconds + timestamp.nanos / 1e9
