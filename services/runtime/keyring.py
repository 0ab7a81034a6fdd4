"""Envelope encryption: AES-256-GCM, a data key for each value, wrapped by a key of the key file.

The key file holds one JSON object a line: ``{"id", "key", "created_at"}``. The last line encrypts, every line
decrypts, so a new key is appended and old values stay readable until they are wrapped anew. A value is bound to
an identity: in another place it cannot be read. Lost on decryption errors: why.

The file may change under a running process: what is sealed is sealed with the key that is newest in the file then.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hmac
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.runtime.auth import Secret
from services.runtime.failures import CannotStart
from services.runtime.private_files import too_open

_KEY_BYTES = 32
_NONCE_BYTES = 12
_DIGESTING = b"junctor: digests of messages"  # from each key comes another one for each use
_Stamp = tuple[int, int, int]


class KeyFileError(CannotStart):
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
        self._seen: _Stamp | None = None

    @classmethod
    def load_or_create(cls, path: Path) -> Keyring:
        """Read the key file; make it (0600, in a 0700 folder) with one key if there is none. Raises KeyFileError."""
        try:
            if not path.exists():
                _write_new(path, _line(new_key_id()))
        except OSError as error:
            raise _unusable(path, error) from error
        return cls.load(path)

    @classmethod
    def load(cls, path: Path) -> Keyring:
        """Read a key file that must be there. Raises KeyFileError."""
        ring = cls({}, path=path)
        ring.reload()
        return ring

    def __repr__(self) -> str:
        return f"Keyring({', '.join(self._keys)})"

    @property
    def newest(self) -> str:
        """Id of the key that encrypts."""
        return next(reversed(self._keys))

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of all keys, the newest last."""
        return tuple(self._keys)

    def reload(self) -> None:
        """Read the key file again, after a key was added. Raises KeyFileError; the keys are then as before."""
        if self._path is None:
            return
        seen = _stamp(self._path)  # before it is read: a change in between is seen the next time
        self._keys = _read(self._path)
        self._seen = seen

    def refresh(self) -> None:
        """Read the key file again if it is not the one that was read last. Raises KeyFileError."""
        if self._path is not None and _stamp(self._path) != self._seen:
            self.reload()

    def digests(self, message: bytes) -> list[str]:
        """Digest a message with each key, the newest first; who has not the key file can verify no guess by them.

        Each is 64 hexadecimal digits. Raises KeyFileError.
        """
        self.refresh()
        keys = [hmac.digest(self._keys[key_id], _DIGESTING, "sha256") for key_id in reversed(self._keys)]
        return [hmac.digest(key, message, "sha256").hex() for key in keys]

    def seal(self, value: Secret, identity: bytes) -> Sealed:
        """Encrypt a value for what ``identity`` names. Raises KeyFileError."""
        return self.seal_bytes(value.reveal().encode(), identity)

    def open(self, sealed: Sealed, identity: bytes) -> Secret:
        """Decrypt a value. Raises ValueUnreadable."""
        return Secret(self.open_bytes(sealed, identity).decode())

    def seal_bytes(self, plain: bytes, identity: bytes) -> Sealed:
        """Encrypt bytes for what ``identity`` names. Raises KeyFileError."""
        self.refresh()  # a key that is being retired must not seal anything any more
        data_key = AESGCM.generate_key(8 * _KEY_BYTES)
        return self._wrap(data_key, _encrypt(data_key, plain, identity), identity)

    def open_bytes(self, sealed: Sealed, identity: bytes) -> bytes:
        """Decrypt bytes. Raises ValueUnreadable."""
        try:
            return _decrypt(self._unwrap(sealed, identity), sealed.ciphertext, identity)
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
            try:
                self.reload()  # another process may have added it
            except KeyFileError:
                raise ValueUnreadable(f"key '{sealed.key_id}' is not known and the key file is unusable") from None
        if sealed.key_id not in self._keys:
            raise ValueUnreadable(f"key '{sealed.key_id}' is not in the secret key file")
        return _decrypt(self._keys[sealed.key_id], sealed.wrapped_key, sealed.key_id.encode() + b"\0" + identity)


def new_key_id() -> str:
    """Draw the id of a key; the day in front is for people."""
    return f"k-{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(4)}"


@contextlib.contextmanager
def rotating(path: Path) -> Iterator[None]:
    """Be the only one on this machine who changes the key file. Raises KeyFileError if somebody else does."""
    try:
        folder = os.open(path.resolve().parent, os.O_RDONLY)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise KeyFileError(f"another process changes the secret key file {path} just now") from None
        yield
    finally:
        os.close(folder)


def add_key(path: Path) -> str:
    """Append a new key, which encrypts from now on, to an existing key file; return its id. Raises KeyFileError."""
    _read(path)
    key_id = new_key_id()
    _replace(path, [*_lines(path), _line(key_id).rstrip()])
    return key_id


def retire_keys(path: Path, *, keep: str) -> list[str]:
    """Remove every key but ``keep`` from the key file; return the ids that went. Raises KeyFileError."""
    gone = [key_id for key_id in _read(path) if key_id != keep]
    _replace(path, [line for line in _lines(path) if (parsed := _parse(line)) is not None and parsed[0] == keep])
    return gone


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


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text("ascii").splitlines() if line.strip()]


def _replace(path: Path, lines: list[str]) -> None:
    """Exchange the file in one step: who reads it sees all of the old or all of the new one. Raises KeyFileError."""
    real = path.resolve()  # a link stays one
    draft = real.with_name(f".{real.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        owner = real.stat()
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                if owner.st_uid != os.geteuid():  # root at work: the services run as the owner
                    os.fchown(descriptor, owner.st_uid, owner.st_gid)
                file.write("".join(f"{line}\n" for line in lines))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(real)
        finally:
            draft.unlink(missing_ok=True)
        _sync_folder(real.parent)
    except OSError as error:
        raise KeyFileError(f"cannot write the secret key file {path}: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    # A key whose file vanishes in a power cut would leave values that nobody can read.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stamp(path: Path) -> _Stamp:
    """Tell one state of the file from another without reading it."""
    try:
        found = path.stat()
    except OSError as error:
        raise _unusable(path, error) from error
    return found.st_ino, found.st_mtime_ns, found.st_size


def _unusable(path: Path, error: OSError) -> KeyFileError:
    return KeyFileError(f"cannot use the secret key file {path}: {error.strerror}")


def _read(path: Path) -> dict[str, bytes]:
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            status = os.fstat(file.fileno())
            lines = file.read().splitlines()
    except OSError as error:
        raise _unusable(path, error) from error
    if too_open(status):
        mode = stat.S_IMODE(status.st_mode)
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
