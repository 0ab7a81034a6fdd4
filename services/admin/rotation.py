"""Rotation of the key that wraps secrets, while services run: add a key, wrap every value with it, retire the others.

Running services seal with the newest key of the file as soon as it is there, and look into the file for a key that
they do not know. A key is retired only while nobody can write and no value needs it, so nothing is ever unreadable.
A rotation that is cut leaves both keys in the file; the next one ends its work.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from services.provider_registry.schedule import Schedule
from services.provider_registry.secret_store import SecretStore
from services.provider_registry.secrets import Keyring, add_key, retire_keys, rotating
from services.runtime.changes import Feed
from services.runtime.db import Database

_ROUNDS = 10


class RotationFailed(Exception):
    """Old keys could not be retired; the text says why in one line. Both old and new keys are in the file."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation did: ids of keys, number of values."""

    new_key: str
    rewrapped: int
    retired: tuple[str, ...]
    kept: tuple[str, ...]


async def rotate(database: Database, key_file: Path, *, keep_old: bool = False) -> Rotation:
    """Rotate the key of the provider registry's store. Raises KeyFileError, RotationFailed, errors of the database."""
    with rotating(key_file):
        keyring = Keyring.load(key_file)
        store = SecretStore(Feed(database), keyring, Schedule(database))
        await store.count_old()  # a store that cannot be read is found before a key is added to the file
        new_key = add_key(key_file)
        old = keyring.ids
        rewrapped = await _rewrap(store, new_key)
        if keep_old:
            return Rotation(new_key, rewrapped, (), old)
        for _ in range(_ROUNDS):
            if await store.if_rewrapped(lambda: retire_keys(key_file, keep=new_key)):
                await store.forget_old_wraps()
                return Rotation(new_key, rewrapped, old, ())
            rewrapped += await _rewrap(store, new_key)
    raise RotationFailed(
        f"a running service goes on sealing with an old key: does it use {key_file}? Old keys are kept"
    )


async def _rewrap(store: SecretStore, new_key: str) -> int:
    done = await store.rewrap()
    if done.unreadable:
        shown = ", ".join(done.unreadable[:5]) + (" …" if len(done.unreadable) > 5 else "")
        raise RotationFailed(
            f"{len(done.unreadable)} of the secrets cannot be decrypted ({shown}): set their values anew or delete "
            f"them, then run this again; old keys are kept, {new_key} is in force"
        )
    return done.count
