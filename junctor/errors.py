"""Every error that junctor raises, on servers and in clients.

    JunctorError
    ├── InvalidArgument          InvalidField · MalformedRequest
    ├── NotFound                 ResourceNotFound · NoRoute · ProviderNotReady
    ├── ResourceExists
    ├── PreconditionFailed       WorkspaceMissing · ProtectedResource · SecretMissing ·
    │                            CredentialUnavailable · AddressRefused
    ├── Aborted                  StaleVersion · WatcherTooSlow
    ├── WatchExpired
    ├── Unauthenticated · PermissionDenied
    ├── Unavailable              Overloaded · PeerUnavailable · NotReady · RevisionNotReached ·
    │                            StoreUnavailable
    ├── LimitExceeded · TooLarge · NotSupported · InternalError
    └── UpstreamError            UpstreamUnreachable · UpstreamTimeout · UpstreamInvalid ·
                                 UpstreamRejected · StreamBroken

An error is raised deep, with everything a caller may know in it. It is translated once, to
``google.rpc.Status`` in the server's interceptor (:mod:`junctor.status`), and rebuilt as the same class on the
client. Lost on the way: the cause and the traceback. HTTP codes and envelopes are known to
``gateway_http.errors`` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

DOMAIN = "junctor"
"""``ErrorInfo.domain`` of failures that are junctor's own; a provider's have ``provider/<ws>/<name>``."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One bad field: its path (``host_url``, ``routing.targets[0].weight``) and the rule that it breaks."""

    field: str
    rule: str


@dataclass(frozen=True, slots=True)
class ResourceRef:
    """The resource that an error is about: kind (``model``, ``provider`` …) and ``workspace/name``."""

    kind: str
    name: str


class JunctorError(Exception):
    """Base of all. ``message`` is meant for the caller: no secrets, no internal addresses, no SQL."""

    reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        domain: str = DOMAIN,
        metadata: Mapping[str, str] | None = None,
        violations: tuple[FieldViolation, ...] = (),
        resource: ResourceRef | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.domain = domain
        self.metadata = dict(metadata or {})
        self.violations = violations
        self.resource = resource
        self.retry_after = retry_after
        """Seconds to wait before another try; None: waiting is not known to help."""

    @property
    def status(self) -> int | None:
        """HTTP status of the answer that this was told by; None: it came another way, or no answer came."""
        given = self.metadata.get("status", "")
        return int(given) if given.isdecimal() else None

    @property
    def request_id(self) -> str:
        """Identifies the call in the server's logs and traces; empty if it is not known."""
        return self.metadata.get("request_id", "")


class InvalidArgument(JunctorError):
    """The request is wrong in itself; sending it again will not help."""


class InvalidField(InvalidArgument):
    """One or more fields break their rule; ``violations`` has them all."""

    reason = "INVALID_FIELD"

    @classmethod
    def of(cls, *violations: FieldViolation) -> InvalidField:
        """Build the error whose message lists every violation."""
        text = "; ".join(f"{v.field}: {v.rule}" for v in violations)
        return cls(f"Invalid request: {text}", violations=tuple(violations))


class MalformedRequest(InvalidArgument):
    """The request as a whole cannot be understood."""

    reason = "MALFORMED_REQUEST"


class NotFound(JunctorError):
    """Something that the request names does not exist."""


class ResourceNotFound(NotFound):
    """A resource of a registry does not exist."""

    reason = "RESOURCE_NOT_FOUND"


class NoRoute(NotFound):
    """Nothing serves that model name now."""

    reason = "NO_ROUTE"


class ProviderNotReady(NotFound):
    """The provider exists, but is not ready."""

    reason = "PROVIDER_NOT_READY"


class ResourceExists(JunctorError):
    """The name is taken."""

    reason = "RESOURCE_EXISTS"


class PreconditionFailed(JunctorError):
    """The system is not in the state that the call needs."""


class WorkspaceMissing(PreconditionFailed):
    """A write names a workspace that does not exist."""

    reason = "WORKSPACE_MISSING"


class ProtectedResource(PreconditionFailed):
    """The resource is built in."""

    reason = "PROTECTED_RESOURCE"


class SecretMissing(PreconditionFailed):
    """A resource refers to a secret that does not exist."""

    reason = "SECRET_MISSING"


class CredentialUnavailable(PreconditionFailed):
    """A provider's key could not be read, so nothing was sent."""

    reason = "CREDENTIAL_UNAVAILABLE"


class AddressRefused(PreconditionFailed):
    """The network policy does not allow a provider's address."""

    reason = "ADDRESS_REFUSED"


class Aborted(JunctorError):
    """Somebody else was faster; read again, then decide again."""


class StaleVersion(Aborted):
    """The given ``resource_version`` is not the newest."""

    reason = "STALE_VERSION"


class WatcherTooSlow(Aborted):
    """The watcher fell behind and was cut."""

    reason = "WATCHER_TOO_SLOW"


class WatchExpired(JunctorError):
    """The Watch token cannot be resumed from: start again without one."""

    reason = "WATCH_EXPIRED"


class Unauthenticated(JunctorError):
    """No usable credential."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(JunctorError):
    """The caller's role does not allow the call."""

    reason = "PERMISSION_DENIED"


class Unavailable(JunctorError):
    """Not now; trying again later may help."""


class Overloaded(Unavailable):
    """A queue or a limit is full."""

    reason = "OVERLOADED"


class LimitExceeded(JunctorError):
    """The caller used what its key or workspace may use; ``retry_after`` says when there is more.

    ``metadata`` has ``limit`` (which one), ``allowed``, ``used`` and ``reset`` (seconds).
    """

    reason = "LIMIT_EXCEEDED"


class PeerUnavailable(Unavailable):
    """A service that this one depends on cannot be reached."""

    reason = "PEER_UNAVAILABLE"


class NotReady(Unavailable):
    """The service is starting or draining."""

    reason = "NOT_READY"


class RevisionNotReached(Unavailable):
    """The catalog did not reach ``min_revision`` in time."""

    reason = "REVISION_NOT_REACHED"


class StoreUnavailable(Unavailable):
    """A service's database refuses for now; ``metadata["cause"]``: ``full``, ``io_error``, ``busy``, ``unreachable``.

    A write that fails so may have been done all the same: repeat it with the same ``request_id``, or read first.
    """

    reason = "STORE_UNAVAILABLE"


class TooLarge(JunctorError):
    """A body or message is over its limit."""

    reason = "TOO_LARGE"


class NotSupported(JunctorError):
    """The operation is not offered."""

    reason = "NOT_SUPPORTED"


class InternalError(JunctorError):
    """A fault of junctor itself; says nothing more."""

    reason = "INTERNAL"


class UpstreamError(JunctorError):
    """A provider caused the failure; ``domain`` names it."""


class UpstreamUnreachable(UpstreamError):
    """No connection, or closed before it answered."""

    reason = "UPSTREAM_UNREACHABLE"


class UpstreamTimeout(UpstreamError):
    """One of the timers ran out before the answer began."""

    reason = "UPSTREAM_TIMEOUT"


class UpstreamInvalid(UpstreamError):
    """The provider's answer cannot be used."""

    reason = "UPSTREAM_INVALID"


class UpstreamRejected(UpstreamError):
    """A typed call was refused by the provider; ``metadata["status"]`` is its HTTP status."""

    reason = "UPSTREAM_REJECTED"


class StreamBroken(UpstreamError):
    """The answer broke off after its first byte."""

    reason = "STREAM_BROKEN"


def _leaves(cls: type[JunctorError]) -> list[type[JunctorError]]:
    return [leaf for sub in cls.__subclasses__() for leaf in ([sub] if "reason" in vars(sub) else _leaves(sub))]


BY_REASON: dict[str, type[JunctorError]] = {cls.reason: cls for cls in _leaves(JunctorError)}
"""Class of every reason: exactly one each (held by ``tests/unit/test_errors.py``)."""
