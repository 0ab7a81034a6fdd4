"""Envelope encryption of secret values: AES-256-GCM, a data key for each value, wrapped by a key of the key file.

The key file holds one JSON object a line: ``{"id", "key", "created_at"}``. The last line encrypts, every line
decrypts, so a new key is appended and old values stay readable until they are wrapped anew. A value is bound to
the workspace, name and id of its secret: moved to another row it cannot be read. Lost on decryption errors: why.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.runtime.auth import Secret

VALUE_LIMIT = 65_536
"""Bytes of a secret's value."""
_KEY_BYTES = 32
_NONCE_BYTES = 12


class KeyFileError(Exception):
    """The key file cannot be used; the message says which file and why, never what is in it."""


class ValueUnreadable(Exception):
    """A value cannot be decrypted: its key is not in the key file, or the row was tampered with."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """An encrypted value: which key wraps its data key, and both ciphertexts with their nonces in front."""

    key_id: str
    wrapped_key: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)


class Keyring:
    """The key-encryption keys of one key file. Its ``repr`` shows key ids alone."""

    def __init__(self, keys: Mapping[str, bytes], *, path: Path | None = None) -> None:
        """Take keys by id, the newest last. ``path``: where to look again for a key that is not known."""
        self._keys = dict(keys)
        self._path = path

    @classmethod
    def load_or_create(cls, path: Path) -> Keyring:
        """Read the key file; make it (0600, in a 0700 folder) with one key if there is none. Raises KeyFileError."""
        try:
            if not path.exists():
                _write_new(path, _line(new_key_id()))
            return cls(_read(path), path=path)
        except OSError as error:
            raise KeyFileError(f"cannot use the secret key file {path}: {error.strerror}") from error

    def __repr__(self) -> str:
        return f"Keyring({', '.join(self._keys)})"

    @property
    def newest(self) -> str:
        """Id of the key that encrypts."""
        return next(reversed(self._keys))

    def reload(self) -> None:
        """Read the key file again, after a key was added. Raises KeyFileError."""
        if self._path is not None:
            self._keys = type(self).load_or_create(self._path)._keys

    def seal(self, value: Secret, identity: bytes) -> Sealed:
        """Encrypt a value for the secret that ``identity`` names (:func:`identity_of`)."""
        data_key = AESGCM.generate_key(8 * _KEY_BYTES)
        return self._wrap(data_key, _encrypt(data_key, value.reveal().encode(), identity), identity)

    def open(self, sealed: Sealed, identity: bytes) -> Secret:
        """Decrypt a value. Raises ValueUnreadable."""
        try:
            return Secret(_decrypt(self._unwrap(sealed, identity), sealed.ciphertext, identity).decode())
        except InvalidTag:
            raise ValueUnreadable("the stored value was altered or belongs to another secret") from None

    def rewrap(self, sealed: Sealed, identity: bytes) -> Sealed:
        """Wrap the data key with the newest key; the value itself is not decrypted. Raises ValueUnreadable."""
        try:
            return self._wrap(self._unwrap(sealed, identity), sealed.ciphertext, identity)
        except InvalidTag:
            raise ValueUnreadable("the stored key was altered or belongs to another secret") from None

    def _wrap(self, data_key: bytes, ciphertext: bytes, identity: bytes) -> Sealed:
        key_id = self.newest
        wrapped = _encrypt(self._keys[key_id], data_key, key_id.encode() + b"\0" + identity)
        return Sealed(key_id, wrapped, ciphertext)

    def _unwrap(self, sealed: Sealed, identity: bytes) -> bytes:
        if sealed.key_id not in self._keys:
            self.reload()  # another process may have added it
        if sealed.key_id not in self._keys:
            raise ValueUnreadable(f"key '{sealed.key_id}' is not in the secret key file")
        return _decrypt(self._keys[sealed.key_id], sealed.wrapped_key, sealed.key_id.encode() + b"\0" + identity)


def identity_of(workspace: str, name: str, secret_id: str) -> bytes:
    """Return what a ciphertext is bound to. None of the parts can hold a NUL."""
    return "\0".join(("junctor.secret.v1", workspace, name, secret_id)).encode()


def value_rule(value: str) -> str | None:
    """Return the rule that a secret's value breaks, or None. The text never has anything of the value."""
    size = len(value.encode())
    if not 1 <= size <= VALUE_LIMIT:
        return f"must have 1 to {VALUE_LIMIT} bytes"
    if not value.isprintable():
        return "must be printable text without line breaks, tabs and NUL"
    return None


def new_key_id() -> str:
    """Draw the id of a key; the day in front is for people."""
    return f"k-{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(4)}"


def add_key(path: Path) -> str:
    """Append a new key, which encrypts from now on, to an existing key file; return its id. Raises KeyFileError."""
    _read(path)
    key_id = new_key_id()
    with path.open("a", encoding="ascii") as file:
        file.write(_line(key_id))
        file.flush()
        os.fsync(file.fileno())
    return key_id


def _line(key_id: str) -> str:
    key = base64.b64encode(AESGCM.generate_key(8 * _KEY_BYTES)).decode()
    at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return json.dumps({"id": key_id, "key": key, "created_at": at}) + "\n"


def _write_new(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # fails if another process was faster: its key is the one
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    # A key whose file vanishes in a power cut would leave values that nobody can read.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> dict[str, bytes]:
    with path.open(encoding="ascii", errors="replace") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        lines = file.read().splitlines()
    if mode & 0o077:
        raise KeyFileError(f"the secret key file {path} can be read by others (mode {mode:04o}): run chmod 600 {path}")
    keys: dict[str, bytes] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        parsed = _parse(line)
        if parsed is None:
            raise KeyFileError(
                f'line {number} of the secret key file {path} is not {{"id", "key": base64 of 32 bytes}}'
            )
        keys[parsed[0]] = parsed[1]
    if not keys:
        raise KeyFileError(f"the secret key file {path} holds no key")
    return keys


def _parse(line: str) -> tuple[str, bytes] | None:
    try:
        entry = json.loads(line)
        key_id, key = entry["id"], base64.b64decode(entry["key"], validate=True)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return (key_id, key) if isinstance(key_id, str) and key_id and len(key) == _KEY_BYTES else None


def _encrypt(key: bytes, plain: bytes, bound_to: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, bound_to)


def _decrypt(key: bytes, sealed: bytes, bound_to: bytes) -> bytes:
    return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound_to)
