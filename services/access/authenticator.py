"""From a credential to who shows it and what they may do. What was proven once is a look-up after that.

A credential is kept only as the key of a dictionary in memory, bounded, and emptied whenever the book changes, so a
revoked key is refused by the very next call.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from junctor.errors import NotReady
from services.access.assertions import Assertions
from services.access.credentials import invalid
from services.access.identity import SERVICE, Caller, Identity, Kind
from services.access.keeper import AccessKeeper
from services.access.keys import is_key
from services.runtime.auth import Secret

if TYPE_CHECKING:
    from services.access.oidc import OidcIssuer

_MOST = 10_000
"""Credentials that are kept."""
_FRESH_SECONDS = 1.0
"""For how long a book that was usable is taken to be so."""
_STALE = "What callers may do cannot be told: access_control was not heard of for too long"
_UNKNOWN = "What callers may do is not known yet"


class Authenticator:
    """Proves credentials by the keeper's book and an OIDC issuer. One for each process."""

    def __init__(self, keeper: AccessKeeper, assertions: Assertions, *, oidc: OidcIssuer | None = None) -> None:
        self.keeper = keeper
        self.assertions = assertions
        self.oidc = oidc
        self._book = keeper.book
        self._generation = -1
        self._fresh_until = 0.0
        self._known: dict[str, Caller] = {}
        self._users: dict[str, Identity] = {}
        """Identities of tokens that were verified; their roles may change, they do not."""
        self._asserted: dict[Identity, Caller] = {}

    def known(self, credential: str) -> Caller | None:
        """Return who shows a credential that was proven before; None: :meth:`prove` has to tell."""
        if self._generation != self._book.generation:
            self._forget()
        caller = self._known.get(credential)
        if caller is None:
            return None
        expires = caller.identity.expires
        return caller if self._fresh() and (expires is None or expires > time.time()) else None

    async def prove(self, credential: str) -> Caller:
        """Return who shows a credential. Raises Unauthenticated, or NotReady: nothing can be told."""
        if (caller := self.known(credential)) is not None:
            return caller
        if Secret(credential) == self.assertions.own_credential:
            return SERVICE
        if not self.keeper.usable:
            raise NotReady(_STALE if self.keeper.loaded else _UNKNOWN, retry_after=1.0)
        caller = self._book.key(credential)
        if caller is None and is_key(credential):
            await self.keeper.catch_up()
            caller = self._book.key(credential)
        if caller is None:
            caller = self._book.user(await self._user(credential))
        if self._generation != self._book.generation:
            self._forget()
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[credential] = caller
        return caller

    async def asserted(self, assertion: bytes) -> Caller:
        """Return of whom another process of junctor speaks. Raises Unauthenticated, NotReady."""
        identity = self.assertions.read(assertion)
        return SERVICE if identity.kind is Kind.SERVICE else await self.caller_of(identity)

    def asserted_known(self, assertion: bytes) -> Caller | None:
        """Return what :meth:`asserted` would without waiting; None: it has to be awaited."""
        identity = self.assertions.read(assertion)
        if self._generation != self._book.generation:
            self._forget()
        caller = self._asserted.get(identity)
        expires = identity.expires
        return caller if self._fresh() and (expires is None or expires > time.time()) else None

    async def caller_of(self, identity: Identity) -> Caller:
        """Return what somebody may do now of whom an assertion spoke. Raises Unauthenticated, NotReady."""
        if identity.expires is not None and identity.expires <= time.time():
            raise invalid()
        if self._generation != self._book.generation:
            self._forget()
        caller = self._asserted.get(identity)
        if caller is None or not self._fresh():
            caller = await self._asserted_now(identity)
            if len(self._asserted) >= _MOST:
                self._asserted.clear()
            self._asserted[identity] = caller
        return caller

    async def _asserted_now(self, identity: Identity) -> Caller:
        if not self.keeper.usable:
            raise NotReady(_STALE if self.keeper.loaded else _UNKNOWN, retry_after=1.0)
        if identity.kind is Kind.USER:
            return self._book.user(identity)
        caller = self._book.key_by_id(identity.name)
        if caller is None:  # the other process may have heard of it first
            await self.keeper.catch_up()
            caller = self._book.key_by_id(identity.name)
        if caller is None:
            raise invalid()
        return caller

    async def _user(self, credential: str) -> Identity:
        identity = self._users.get(credential)
        if identity is not None and (identity.expires is None or identity.expires > time.time()):
            return identity
        if self.oidc is None or credential.count(".") != 2:
            raise invalid()
        identity = await self.oidc.verify(credential)
        if len(self._users) >= _MOST:
            self._users.clear()
        self._users[credential] = identity
        return identity

    def _fresh(self) -> bool:
        """Tell whether the book may be decided by; asked of the keeper once a second, whatever the clock is set to."""
        now = time.monotonic()
        if now > self._fresh_until:
            if not self.keeper.usable:
                return False
            self._fresh_until = now + _FRESH_SECONDS
        return True

    def _forget(self) -> None:
        self._known.clear()
        self._asserted.clear()
        self._generation = self._book.generation
