"""The last good catalog on disk: what a router that starts while every registry is down serves from.

One file, encrypted as a whole because it has the values of secrets in it, written beside and renamed, mode 0600. A
file that cannot be read is as good as none: the router then waits for its registries.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from pathlib import Path

import msgspec

from services.runtime.keyring import KeyFileError, Keyring, Sealed, ValueUnreadable
from services.runtime.state_parts import Version

_MAGIC = b"junctor catalog 1\n"
_IDENTITY = b"junctor.catalog.v1"

_log = logging.getLogger(__name__)


class SavedCatalog(msgspec.Struct, frozen=True):
    """A catalog as it was, in the registries' own messages."""

    saved_at: float
    """UNIX time."""
    revisions: dict[str, int]
    """Store → revision that it holds."""
    providers: list[bytes]
    """Serialized ``junctor.v1.Provider``."""
    virtual_models: list[bytes]
    """Serialized ``junctor.v1.VirtualModel``."""
    secrets: list[tuple[str, str, str]]
    """Workspace, name, value."""
    epochs: dict[str, str] = {}
    """Store → which store of that name it was; 0.2.0 did not say."""
    as_of: dict[str, float] = {}
    """Store → UNIX time at which its registry was last heard of; 0.2.0 did not say."""

    def version(self, store: str) -> Version:
        """Return how new the part of one store is."""
        as_of = self.as_of.get(store, self.saved_at)
        return Version(self.epochs.get(store, ""), self.revisions.get(store, 0), as_of)

    def __repr__(self) -> str:
        counts = f"{len(self.providers)} providers, {len(self.virtual_models)} virtual models"
        return f"SavedCatalog({counts}, {len(self.secrets)} secrets)"


class _Envelope(msgspec.Struct, frozen=True):
    key_id: str
    wrapped_key: bytes
    ciphertext: bytes


class CatalogFile:
    """Reads and writes the file. Both block: a large catalog takes some milliseconds."""

    def __init__(self, path: Path, keyring: Keyring) -> None:
        self._path = path
        self._keyring = keyring
        self._key_id = ""

    def needs_new_key(self) -> bool:
        """Tell whether another key than the newest encrypts the file: it may soon be retired."""
        try:
            self._keyring.refresh()
        except KeyFileError as error:
            _log.warning("cannot look for a new key: %s", error)
            return False
        return self._key_id not in ("", self._keyring.newest)

    def load(self) -> SavedCatalog | None:
        """Return the catalog in the file; None if there is none or it cannot be used, which is logged."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("cannot read the saved catalog %s: %s", self._path, error.strerror)
            return None
        try:
            return self._decode(content)
        except (ValueUnreadable, KeyFileError, msgspec.MsgspecError) as error:
            _log.warning("cannot use the saved catalog %s: %s", self._path, error)
            return None

    def save(self, catalog: SavedCatalog) -> None:
        """Replace the file, in one step. Raises OSError, KeyFileError; the old file is then still there."""
        sealed = self._keyring.seal_bytes(msgspec.msgpack.encode(catalog), _IDENTITY)
        envelope = _Envelope(sealed.key_id, sealed.wrapped_key, sealed.ciphertext)
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(_MAGIC + msgspec.msgpack.encode(envelope))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
            self._key_id = sealed.key_id
        finally:
            with contextlib.suppress(FileNotFoundError):
                draft.unlink()

    def _decode(self, content: bytes) -> SavedCatalog:
        if not content.startswith(_MAGIC):
            raise ValueUnreadable("it is not a catalog of this release")
        envelope = msgspec.msgpack.decode(content[len(_MAGIC) :], type=_Envelope)
        sealed = Sealed(envelope.key_id, envelope.wrapped_key, envelope.ciphertext)
        catalog = msgspec.msgpack.decode(self._keyring.open_bytes(sealed, _IDENTITY), type=SavedCatalog)
        self._key_id = sealed.key_id
        return catalog
