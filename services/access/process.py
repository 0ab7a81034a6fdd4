"""Access control as one process has it: its book, its authenticator, its record of refusals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from junctor.channel import Peer
from services.access.assertions import Assertions, to_text
from services.access.audit import AuditReporter
from services.access.authenticator import Authenticator
from services.access.identity import Caller
from services.access.keeper import AccessKeeper
from services.access.options import AccessOptions, OidcOptions
from services.access.part import AccessPart
from services.access.saved import BookFile
from services.runtime.auth import Secret
from services.runtime.interceptors import current_call
from services.runtime.metrics import Family, Sample
from services.runtime.tasks import Tasks

if TYPE_CHECKING:
    from services.access.oidc import OidcIssuer


class ProcessAccess:
    """Everything of access that one process needs. Made in its running loop."""

    def __init__(
        self,
        access_control: Peer,
        options: AccessOptions,
        *,
        token: Secret,
        file: Path | None,
        saves: bool = True,
        authorities: str = "",
    ) -> None:
        """``file``: where the book is kept; ``authorities``: PEM that vouches for the issuer, empty: the system's."""
        book_file = BookFile(file, token)
        self.keeper = AccessKeeper(
            access_control, book_file, max_stale=options.max_stale, admins=options.admins, saves=saves
        )
        self.assertions = Assertions(token)
        self.oidc = None if options.oidc is None else _issuer(options.oidc, authorities)
        self.authenticator = Authenticator(self.keeper, self.assertions, oidc=self.oidc)
        self.reporter = AuditReporter(access_control)
        self.part = AccessPart(self.keeper, book_file)
        self._tasks = Tasks("access")

    def on_behalf(self) -> str:
        """Return who makes the call that is served, as another process is told it; empty for nobody."""
        info = current_call()
        caller = None if info is None else info.principal
        return to_text(self.assertions.write(caller)) if isinstance(caller, Caller) else ""

    def discovery(self) -> dict[str, Any]:
        """Return how users log in at the OIDC issuer, as compatible clients read it; empty without one."""
        if self.oidc is None:
            return {}
        options, endpoints = self.oidc.options, self.oidc.endpoints
        told = ("authorization_endpoint", "token_endpoint", "device_authorization_endpoint")
        return {
            "issuer": options.issuer,
            "client_id": options.client_id or None,
            **{name: endpoints.get(name) for name in told},
            "default_scopes": "openid profile email offline_access",
            "scope_prefix": None,
        }

    def ready(self) -> bool:
        """Tell whether callers can be told apart."""
        return self.keeper.usable

    async def start(self) -> None:
        """Load the book, follow access_control, and fetch the issuer's keys."""
        await self.keeper.start()
        self._tasks.start(self.reporter.run())
        if self.oidc is not None:
            self._tasks.start(self.oidc.prepare())

    async def stop(self) -> None:
        """End following, ship what waits for the record, write the book down."""
        await self._tasks.stop()
        await self.keeper.stop()

    def metrics(self) -> list[Family]:
        """Return how old the book is, and which keys end when."""
        ends = tuple(Sample(at, {"key": key}) for key, at in self.keeper.book.expiring().items())
        heard, dropped = (Sample(self.keeper.heard_at),), (Sample(self.reporter.dropped),)
        return [
            Family("junctor_access_heard_timestamp_seconds", "gauge", "When access_control was last heard of.", heard),
            Family("junctor_key_expiry_timestamp_seconds", "gauge", "When living keys end.", ends),
            Family("junctor_audit_dropped_total", "counter", "Refusals that the record had no room for.", dropped),
        ]


def _issuer(options: OidcOptions, authorities: str) -> OidcIssuer:
    from services.access.oidc import OidcIssuer  # most processes have none, and need no client for one

    return OidcIssuer(options, authorities=authorities)
