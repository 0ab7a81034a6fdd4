"""Who calls the edge: every path but a few asks for a credential before anything else is looked at.

The decision is made by the path of the request line alone, which is the path that is routed: no URL is put together
from ``Host``. Whether a caller may do what it asks is the business of the services, which get its identity signed.
"""

from __future__ import annotations

from gateway_http.limits import RequestHead
from junctor.errors import JunctorError
from services.access.assertions import to_text
from services.access.audit import AuditReporter, Refusal
from services.access.authenticator import Authenticator
from services.access.credentials import required
from services.access.identity import NOBODY, Caller
from services.runtime.exchange import KnownHeaders

OPEN = frozenset((b"/health/live", b"/health/ready", b"/status", b"/apis/auth/discovery"))
"""Paths that need no credential, byte for byte (the HTTP contract, section 1)."""


class Gate:
    """Admits callers. ``signs``: the router is in another process, which is told the caller by an assertion."""

    def __init__(
        self,
        authenticator: Authenticator,
        reporter: AuditReporter,
        *,
        signs: bool = True,
        more_open: frozenset[bytes] = frozenset(),
    ) -> None:
        """``more_open``: further paths that need no credential, byte for byte as well."""
        self._authenticator = authenticator
        self._reporter = reporter
        self._signs = signs
        self._open = OPEN | more_open

    def is_open(self, path: bytes) -> bool:
        """Tell whether a raw path needs no credential."""
        return path in self._open

    def admit(self, head: RequestHead) -> Caller | str:
        """Return who calls, or the credential that has yet to be proven. Raises Unauthenticated."""
        headers = head.headers
        if type(headers) is KnownHeaders:
            if headers.credential is None:
                headers.credential = required(headers)
            credential = headers.credential
        else:
            if self.is_open(head.target.partition(b"?")[0]):
                return NOBODY
            credential = required(headers)
        return self._authenticator.known(credential) or credential

    async def prove(self, credential: str) -> Caller:
        """Return whose credential it is. Raises Unauthenticated, NotReady."""
        return await self._authenticator.prove(credential)

    def assertion(self, caller: Caller) -> bytes:
        """Return what another process is to be told; nothing if the router is in this one."""
        return self._authenticator.assertions.write(caller) if self._signs else b""

    def acting(self, caller: Caller) -> str:
        """Return what registries are told, as metadata has it."""
        return to_text(self._authenticator.assertions.write(caller))

    def told(self, method: bytes, path: bytes, error: JunctorError, *, request_id: str) -> None:
        """Take note of a refused request."""
        what = f"{method.decode('ascii', 'replace')} {path.decode('ascii', 'replace')}"
        self._reporter.refused(Refusal("", what, error.reason), request_id=request_id)
