"""Secrets: what is known of them in one table, their encrypted values in another that only this file reads."""

from __future__ import annotations

import hashlib

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from junctor.v1 import secrets_pb2 as pb
from services.provider_registry.schedule import Schedule
from services.provider_registry.secrets import Keyring, Sealed, identity_of
from services.runtime.auth import Secret
from services.runtime.changes import Feed
from services.runtime.resources import Kind, ResourceStore

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


class SecretStore(ResourceStore[pb.Secret]):
    """Secrets and their values. Every change makes the providers due that use the secret."""

    def __init__(self, feed: Feed, keyring: Keyring, schedule: Schedule) -> None:
        super().__init__(feed, SECRET)
        self._keyring = keyring
        self._schedule = schedule

    async def create_secret(self, secret: pb.Secret, value: Secret, *, request_id: str = "") -> pb.Secret:
        """Create a secret with its value. Raises ResourceExists; ``request_id`` as in :meth:`create`."""
        # Not of the value: a plain digest of a short one would give it away.
        digest = hashlib.sha256(secret.SerializeToString(deterministic=True)).hexdigest()
        async with self.transaction() as tx:
            if request_id and (earlier := await self._replay(tx, request_id, digest)) is not None:
                return earlier
            await self._schedule.demand_users(tx, secret.workspace, secret.name)
            created = await self.insert(tx, secret)
            await tx.execute(sa.insert(VALUES).values(self._sealed_row(created, value)))
            if request_id:
                await self._remember(tx, request_id, digest, created)
            return created

    async def update_secret(self, request: pb.UpdateSecretRequest) -> pb.Secret:
        """Change value or description. Raises ResourceNotFound, StaleVersion."""

        def change(secret: pb.Secret) -> None:
            if request.HasField("description"):
                secret.description = request.description
            if request.HasField("value"):
                secret.value_version += 1

        async with self.transaction() as tx:
            current = await self.fetch(tx, request.workspace, request.name)
            self.check_version(current, request.resource_version)
            if request.HasField("value"):
                row = self._sealed_row(current, Secret(request.value))
                await tx.execute(sa.update(VALUES).where(VALUES.c.secret_id == current.id).values(row))
                await self._schedule.demand_users(tx, current.workspace, current.name)
            return await self.put(tx, current, change)

    async def remove(self, tx: AsyncConnection, current: pb.Secret) -> int:
        """Delete ``current`` and its value within ``tx``; returns the revision."""
        await tx.execute(sa.delete(VALUES).where(VALUES.c.secret_id == current.id))
        await self._schedule.demand_users(tx, current.workspace, current.name)
        return await super().remove(tx, current)

    async def reveal(self, workspace: str, name: str) -> tuple[pb.Secret, Secret]:
        """Return a secret and its value. Raises ResourceNotFound, ValueUnreadable."""
        async with self.feed.database.read() as tx:
            secret = await self.fetch(tx, workspace, name)
            row = (await tx.execute(sa.select(VALUES).where(VALUES.c.secret_id == secret.id))).one()
        sealed = Sealed(row.key_id, row.wrapped_key, row.ciphertext)
        return secret, self._keyring.open(sealed, identity_of(workspace, name, secret.id))

    async def exists(self, workspace: str, name: str) -> bool:
        """Tell whether there is such a secret."""
        async with self.feed.database.read() as tx:
            return await self.find(tx, workspace, name) is not None

    async def rewrap(self) -> int:
        """Wrap every data key that an older key wraps with the newest one; returns how many. Raises ValueUnreadable.

        Values, versions and watchers do not notice.
        """
        async with self.feed.database.write() as tx:
            newest = self._keyring.newest
            old = {
                row.secret_id: Sealed(row.key_id, row.wrapped_key, row.ciphertext)
                for row in await tx.execute(sa.select(VALUES).where(VALUES.c.key_id != newest))
            }
            owners = [secret for secret in await self.all(tx) if secret.id in old]
            for secret in owners:
                identity = identity_of(secret.workspace, secret.name, secret.id)
                sealed = self._keyring.rewrap(old[secret.id], identity)
                await tx.execute(
                    sa.update(VALUES)
                    .where(VALUES.c.secret_id == secret.id)
                    .values(key_id=sealed.key_id, wrapped_key=sealed.wrapped_key)
                )
        return len(owners)

    def _sealed_row(self, secret: pb.Secret, value: Secret) -> dict[str, object]:
        sealed = self._keyring.seal(value, identity_of(secret.workspace, secret.name, secret.id))
        return {
            "secret_id": secret.id,
            "key_id": sealed.key_id,
            "wrapped_key": sealed.wrapped_key,
            "ciphertext": sealed.ciphertext,
        }
