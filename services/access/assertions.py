"""A caller's identity as one process of junctor tells another: signed, short-lived, and nothing that a client can set.

An assertion is ``msgpack . HMAC-SHA256`` under a key that is derived from the service token, so only a process that
has the token can write one. It says who, never what they may do: that the receiver decides by its own book.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import time
from collections.abc import Callable

import msgspec

from junctor.errors import Unauthenticated
from services.access.identity import Caller, Identity, Kind
from services.access.roles import Permission
from services.runtime.auth import Secret, own_credential

LIFETIME = 60.0
"""Seconds for which an assertion is good."""
_RENEW = 30.0
"""Age in seconds at which a new one is written: the receiver's clock may differ by the rest."""
_SKEW = 30.0
"""Seconds that the writer's clock may be ahead."""
_MOST = 10_000
"""Assertions that are kept, of each side."""
_DIGEST = hashlib.sha256().digest_size
_WARN_EVERY = 60.0

_log = logging.getLogger(__name__)


class _Said(msgspec.Struct, frozen=True, array_like=True):
    kind: str
    name: str
    email: str
    groups: tuple[str, ...]
    permissions: tuple[str, ...] | None
    expires: float | None
    written: float


class Assertions:
    """Writes and reads assertions; both are kept while they are good, so most calls cost a look-up."""

    def __init__(self, token: Secret, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._key = hmac.digest(token.reveal().encode(), b"junctor caller assertion 1", "sha256")
        self.own_credential = own_credential(token)
        self._written: dict[Identity, tuple[float, bytes]] = {}
        self._read: dict[bytes, tuple[float, Identity]] = {}
        self._warned_at = -_WARN_EVERY

    def write(self, caller: Caller) -> bytes:
        """Return an assertion of who the caller is."""
        now = self._clock()
        identity = caller.identity
        kept = self._written.get(identity)
        if kept is not None and 0 <= now - kept[0] < _RENEW:  # a clock that was set back makes it one of the future
            return kept[1]
        left = identity.permissions
        said = _Said(
            identity.kind.value,
            identity.name,
            identity.email,
            tuple(sorted(identity.groups)),
            None if left is None else tuple(sorted(permission.value for permission in left)),
            identity.expires,
            now,
        )
        body = msgspec.msgpack.encode(said)
        signed = body + hmac.digest(self._key, body, "sha256")
        if len(self._written) >= _MOST:
            self._written.clear()
        self._written[identity] = (now, signed)
        return signed

    def read(self, assertion: bytes) -> Identity:
        """Return who an assertion speaks of. Raises Unauthenticated for one that is forged, altered or too old."""
        now = self._clock()
        kept = self._read.get(assertion)
        if kept is None:
            kept = self._verified(assertion)
            if len(self._read) >= _MOST:
                self._read.clear()
            self._read[assertion] = kept
        if not -_SKEW <= now - kept[0] <= LIFETIME:
            raise _unfit()
        return kept[1]

    def _warn(self) -> None:
        """Say what mostly is wrong when a process that has proven to be of junctor brings an assertion that is not."""
        now = time.monotonic()
        if now - self._warned_at >= _WARN_EVERY:
            self._warned_at = now
            _log.warning(
                "the caller that another process speaks of cannot be verified: with JUNCTOR_AUTH=on all processes need "
                "the same service token (JUNCTOR_SERVICE_TOKEN_FILE), also where certificates prove who they are"
            )

    def _verified(self, assertion: bytes) -> tuple[float, Identity]:
        body, signature = assertion[:-_DIGEST], assertion[-_DIGEST:]
        if not body or not hmac.compare_digest(hmac.digest(self._key, body, "sha256"), signature):
            self._warn()
            raise _unfit()
        try:
            said = msgspec.msgpack.decode(body, type=_Said)
            left = None if said.permissions is None else frozenset(map(Permission, said.permissions))
            identity = Identity(
                Kind(said.kind), said.name, said.email, frozenset(said.groups), permissions=left, expires=said.expires
            )
        except (msgspec.MsgspecError, ValueError) as error:
            raise _unfit() from error
        return said.written, identity


def to_text(assertion: bytes) -> str:
    """Write an assertion as metadata has it."""
    return base64.b64encode(assertion).decode()


def from_text(text: str | bytes) -> bytes:
    """Read :func:`to_text`. Raises Unauthenticated."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _unfit() from error


def _unfit() -> Unauthenticated:
    return Unauthenticated("The assertion of the caller is not valid.")
