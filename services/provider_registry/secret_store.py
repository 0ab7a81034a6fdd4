"""Secrets: what is known of them in one table, their encrypted values in another that only this file reads."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from junctor import names
from junctor.errors import NotReady
from junctor.v1 import secrets_pb2 as pb
from services.provider_registry.schedule import Schedule
from services.provider_registry.secrets import KeyFileError, Keyring, Sealed, ValueUnreadable, identity_of
from services.runtime.auth import Secret
from services.runtime.changes import Feed
from services.runtime.incarnations import Incarnations
from services.runtime.resources import Kind, ResourceStore

_BATCH = 100
"""Values that are wrapped anew in one transaction; writers wait for no more than one."""

_log = logging.getLogger(__name__)

SECRET = Kind(
    name="secret",
    table="secrets",
    message=pb.Secret,
    id_prefix="secret",
    fields=lambda secret: {"description": secret.description if secret.HasField("description") else None},
    missing=lambda workspace, name: f"Secret {workspace}/{name} not found",
    exists=lambda workspace, name: f"Secret '{workspace}/{name}' already exists",
    filterable=frozenset({"description"}),
    default_page_size=10,
)

VALUES = sa.Table(
    "secret_values",
    sa.MetaData(),
    sa.Column("secret_id", sa.String, primary_key=True),
    sa.Column("key_id", sa.String),
    sa.Column("wrapped_key", sa.LargeBinary),
    sa.Column("ciphertext", sa.LargeBinary),
)


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """What came of wrapping values with the newest key."""

    count: int
    unreadable: tuple[str, ...]
    """``workspace/name`` of secrets whose values nobody can decrypt; they are left as they are."""


@contextlib.contextmanager
def _key_file() -> Iterator[None]:
    """Raise NotReady when the key file cannot be used."""
    try:
        yield
    except KeyFileError as error:
        _log.error("no secret can be stored: %s", error)
        raise NotReady("Secrets cannot be stored now: the service cannot read its key file.") from None


class SecretStore(ResourceStore[pb.Secret]):
    """Secrets and their values. Every change makes the providers due that use the secret."""

    def __init__(
        self, feed: Feed, keyring: Keyring, schedule: Schedule, *, incarnations: Incarnations | None = None
    ) -> None:
        super().__init__(feed, SECRET, incarnations=incarnations)
        self._keyring = keyring
        self._schedule = schedule

    async def create_secret(
        self, secret: pb.Secret, value: Secret, *, request_id: str = "", workspace_id: str = ""
    ) -> pb.Secret:
        """Create a secret with its value. Raises ResourceExists, WorkspaceMissing; the rest as in :meth:`create`."""
        digests = self._digests(secret, value) if request_id else []
        async with self.transaction() as tx:
            if request_id and (earlier := await self._replay(tx, request_id, *digests)) is not None:
                return earlier
            await self._schedule.demand_users(tx, secret.workspace, secret.name)
            created = await self.insert(tx, secret, workspace_id=workspace_id)
            await tx.execute(sa.insert(VALUES).values(self._sealed_row(created, value)))
            if request_id:
                await self._remember(tx, request_id, digests[0], created)
            return created

    def _digests(self, secret: pb.Secret, value: Secret) -> list[str]:
        """Return what may stand for a create among the requests, first what a new one is remembered by."""
        plain = hashlib.sha256(secret.SerializeToString(deterministic=True))
        # The keys are in it: a plain digest of a short value would give the value away.
        with _key_file():
            keyed = self._keyring.digests(plain.digest() + value.reveal().encode())
        return [*keyed, plain.hexdigest()]  # the last: as 0.1.0 remembers it, without the value

    async def update_secret(self, request: pb.UpdateSecretRequest) -> pb.Secret:
        """Change value, description or labels. Raises ResourceNotFound, StaleVersion.

        What is as asked already is not written: repeating a call changes no version and wakes nobody.
        """
        async with self.transaction() as tx:
            current = await self.fetch(tx, request.workspace, request.name)
            self.check_version(current, request.resource_version)
            renewed = request.HasField("value") and not await self._holds(tx, current, request.value)

            def change(secret: pb.Secret) -> None:
                if request.HasField("description"):
                    secret.description = request.description
                if request.HasField("labels"):
                    secret.ClearField("labels")
                    secret.labels.update(request.labels.values)
                if renewed:
                    secret.value_version += 1

            if renewed:
                row = self._sealed_row(current, Secret(request.value))
                await tx.execute(sa.update(VALUES).where(VALUES.c.secret_id == current.id).values(row))
                await self._schedule.demand_users(tx, current.workspace, current.name)
            return await self.put(tx, current, change)

    async def _holds(self, tx: AsyncConnection, secret: pb.Secret, value: str) -> bool:
        """Tell whether a secret's value is this one; no when it cannot be read, for then it has to be written."""
        row = (await tx.execute(sa.select(VALUES).where(VALUES.c.secret_id == secret.id))).one()
        try:
            stored = self._keyring.open(_sealed(row), identity_of(secret.workspace, secret.name, secret.id))
        except ValueUnreadable:
            return False
        return hmac.compare_digest(stored.reveal().encode(), value.encode())

    async def remove(self, tx: AsyncConnection, current: pb.Secret) -> int:
        """Delete ``current`` and its value within ``tx``; returns the revision."""
        await tx.execute(sa.delete(VALUES).where(VALUES.c.secret_id == current.id))
        await self._schedule.demand_users(tx, current.workspace, current.name)
        return await super().remove(tx, current)

    async def reveal(self, workspace: str, name: str) -> tuple[pb.Secret, Secret]:
        """Return a secret and its value. Raises ResourceNotFound, ValueUnreadable."""
        try:
            return await self._reveal(workspace, name)
        except ValueUnreadable:
            # Its key may have been retired after the row was read: the row now names another.
            return await self._reveal(workspace, name)

    async def _reveal(self, workspace: str, name: str) -> tuple[pb.Secret, Secret]:
        async with self.feed.database.read() as tx:
            secret = await self.fetch(tx, workspace, name)
            row = (await tx.execute(sa.select(VALUES).where(VALUES.c.secret_id == secret.id))).one()
        return secret, self._keyring.open(_sealed(row), identity_of(workspace, name, secret.id))

    async def exists(self, workspace: str, name: str) -> bool:
        """Tell whether there is such a secret."""
        async with self.feed.database.read() as tx:
            return await self.find(tx, workspace, name) is not None

    # -- keys

    async def rewrap(self) -> Rewrapped:
        """Wrap every data key that an older key wraps with the newest one; values and versions stay, nobody is told.

        In several transactions, so that running services write in between. Raises KeyFileError.
        """
        self._keyring.refresh()
        count, unreadable, after = 0, list[str](), ""
        while True:
            async with self.transaction() as tx:
                rows = (await tx.execute(self._old(after).limit(_BATCH))).all()
                for row in rows:
                    try:
                        await self._rewrap(tx, row)
                        count += 1
                    except ValueUnreadable:
                        unreadable.append(names.join(row.workspace, row.name))
            if not rows:
                return Rewrapped(count, tuple(unreadable))
            after = rows[-1].secret_id

    async def count_old(self) -> int:
        """Count the values that another key than the newest wraps."""
        async with self.feed.database.read() as tx:
            return int(
                (await tx.execute(sa.select(sa.func.count()).select_from(self._old("").subquery()))).scalar_one()
            )

    async def if_rewrapped(self, act: Callable[[], object]) -> bool:
        """Call ``act`` if every value is wrapped by the newest key; nobody writes a secret meanwhile."""
        async with self.transaction() as tx:
            if (await tx.execute(self._old("").limit(1))).first() is not None:
                return False
            act()
        return True

    async def forget_old_wraps(self) -> None:
        """Drop rows as they were from SQLite's log, which keeps them until it is written back.

        PostgreSQL has them until VACUUM; backups have them for as long as they are kept.
        """
        if self.feed.database.is_sqlite:
            async with self.feed.database.engine.connect() as connection:
                driver = (await connection.get_raw_connection()).driver_connection
                assert driver is not None
                await (await driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")).close()

    def _old(self, after: str) -> sa.Select[Any]:
        """Select the values that another key than the newest wraps, in the order of their secrets' ids."""
        columns = (self.table.c.workspace, self.table.c.name, *VALUES.c)
        return (
            sa.select(*columns)
            .join(VALUES, VALUES.c.secret_id == self.table.c.id)
            .where(VALUES.c.key_id != self._keyring.newest, VALUES.c.secret_id > after)
            .order_by(VALUES.c.secret_id)
        )

    async def _rewrap(self, tx: AsyncConnection, row: sa.Row[Any]) -> None:
        sealed = self._keyring.rewrap(_sealed(row), identity_of(row.workspace, row.name, row.secret_id))
        if self.feed.database.is_sqlite:
            await tx.exec_driver_sql("PRAGMA secure_delete=ON")  # what is overwritten must not lie in a free page
        await tx.execute(
            sa.update(VALUES)
            .where(VALUES.c.secret_id == row.secret_id)
            .values(key_id=sealed.key_id, wrapped_key=sealed.wrapped_key)
        )

    def _encrypt(self, value: Secret, identity: bytes) -> Sealed:
        with _key_file():
            return self._keyring.seal(value, identity)

    def _sealed_row(self, secret: pb.Secret, value: Secret) -> dict[str, object]:
        sealed = self._encrypt(value, identity_of(secret.workspace, secret.name, secret.id))
        return {
            "secret_id": secret.id,
            "key_id": sealed.key_id,
            "wrapped_key": sealed.wrapped_key,
            "ciphertext": sealed.ciphertext,
        }


def _sealed(row: sa.Row[Any]) -> Sealed:
    return Sealed(row.key_id, row.wrapped_key, row.ciphertext)
