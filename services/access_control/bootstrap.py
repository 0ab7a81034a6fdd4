"""The first way in: the key that an operator has set, or one that is made when nobody could get in otherwise."""

from __future__ import annotations

import hmac
import logging
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from junctor.v1 import access_pb2 as pb
from services.access.keys import LONGEST, hash_of, shown_prefix
from services.access.keys import new_key as draw
from services.access_control.keys import KeyStore
from services.runtime.auth import Secret
from services.runtime.failures import CannotStart

BOOTSTRAP_ID = "key-bootstrap"
"""Id of the key that is set by JUNCTOR_ADMIN_KEY."""
_SHORT = 20
"""Characters; what is shorter can be guessed by whoever has the time."""

_log = logging.getLogger(__name__)


def chosen_key(value: Secret | None, file: Path | None) -> Secret | None:
    """Return the key that the settings name, by itself or in a file. Raises CannotStart."""
    if value is None and file is not None:
        try:
            value = Secret(file.read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise CannotStart(f"cannot read JUNCTOR_ADMIN_KEY_FILE {file}: {why}") from None
        if not value:
            raise CannotStart(f"JUNCTOR_ADMIN_KEY_FILE {file} is empty")
    if value is not None:
        text = value.reveal()
        if not text or len(text) > LONGEST or not text.isascii() or not text.isprintable() or " " in text:
            raise CannotStart("the admin key must be printable ASCII characters without spaces")
        if len(text) < _SHORT:
            _log.warning("the admin key has fewer than %d characters: choose a longer one", _SHORT)
    return value


async def store_chosen(store: KeyStore, value: Secret) -> None:
    """Let the key that is set be a PLATFORM_ADMIN key; a new value takes the place of the one before.

    A value that was revoked stays revoked.
    """
    async with store.transaction() as tx:
        current = await store.find_key(tx, BOOTSTRAP_ID)
        if current is None:
            await store.add(tx, _platform_admin("Set by JUNCTOR_ADMIN_KEY"), value, key_id=BOOTSTRAP_ID)
        elif not hmac.compare_digest(current.hash, hash_of(value.reveal())):
            await store.put(tx, current, lambda record: _replace(record, value))


async def first_key(store: KeyStore) -> Secret | None:
    """Make a PLATFORM_ADMIN key if there is none in force; of several replicas one makes it. None: there is one."""
    async with store.transaction() as tx:
        return None if await store.has_platform_admin(tx) else await _made(store, tx)


async def _made(store: KeyStore, tx: AsyncConnection) -> Secret:
    value = Secret(draw())
    await store.add(tx, _platform_admin("Made at the first start"), value)
    return value


def _platform_admin(description: str) -> pb.ApiKey:
    return pb.ApiKey(description=description, role=pb.ROLE_PLATFORM_ADMIN)


def _replace(record: pb.KeyRecord, value: Secret) -> None:
    record.hash = hash_of(value.reveal())
    record.key.prefix = shown_prefix(value.reveal())
    record.key.ClearField("revoked_at")
    record.key.ClearField("revoked_by")
