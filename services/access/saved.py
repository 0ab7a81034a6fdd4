"""The access book on disk: what a process that starts while access_control is down decides by. Hashes only, no key.

One file, mode 0600, written beside and renamed. It carries an HMAC under a key that is derived from the service token:
who can write to the folder but has no token cannot let anybody in. A file that does not fit is as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import secrets
from pathlib import Path

import msgspec

from services.runtime.auth import Secret

_MAGIC = b"junctor access 1\n"
_DIGEST = hashlib.sha256().digest_size

_log = logging.getLogger(__name__)


class SavedBook(msgspec.Struct, frozen=True):
    """A book as it was."""

    heard_at: float
    """UNIX time at which access_control last said that this is all."""
    keys: list[bytes]
    """Serialized ``junctor.v1.KeyRecord``."""
    members: list[bytes]
    """Serialized ``junctor.v1.Member``."""
    revoked: list[str]
    """Hashes of keys that were ever seen revoked."""


class BookFile:
    """Reads and writes the file. Both block for some milliseconds; ``path`` None: nothing is kept."""

    def __init__(self, path: Path | None, token: Secret) -> None:
        self._path = path
        self._key = hmac.digest(token.reveal().encode(), b"junctor access file 1", "sha256")

    def load(self) -> SavedBook | None:
        """Return what is in the file; None if there is none or it does not fit, which is logged."""
        if self._path is None:
            return None
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("cannot read the saved access book %s: %s", self._path, error.strerror)
            return None
        saved = self.decode(content)
        if saved is None:
            _log.warning("the saved access book %s is of another service token or broken: it is not used", self._path)
        return saved

    def save(self, book: SavedBook) -> None:
        """Write the file. What goes wrong is logged: the process goes on with what it has in memory."""
        if self._path is None:
            return
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(self.encode(book))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
        except OSError as error:
            _log.warning("cannot save the access book %s: %s", self._path, error.strerror)
            with contextlib.suppress(OSError):
                draft.unlink()

    def encode(self, book: SavedBook) -> bytes:
        """Write a book as the file, and a router that asks another one, have it."""
        body = msgspec.msgpack.encode(book)
        return _MAGIC + body + hmac.digest(self._key, _MAGIC + body, "sha256")

    def decode(self, content: bytes) -> SavedBook | None:
        """Read :meth:`encode`; None if it is of another token, another release, or altered."""
        signed, signature = content[:-_DIGEST], content[-_DIGEST:]
        fits = content.startswith(_MAGIC) and hmac.compare_digest(hmac.digest(self._key, signed, "sha256"), signature)
        if not fits:
            return None
        try:
            return msgspec.msgpack.decode(signed[len(_MAGIC) :], type=SavedBook)
        except msgspec.MsgspecError:
            return None
