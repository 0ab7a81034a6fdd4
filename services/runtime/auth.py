"""The service token, or a certificate: what one junctor process shows another, whatever ``JUNCTOR_AUTH`` is.

The token lies in a file made 0600 at first start, so that one user's processes on one machine share it; in
production it is mounted. Services are internal or public by a table of their full names; one that is missing
in the table counts as internal, so that forgetting a row refuses instead of opens.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from junctor.channel import Metadata
from junctor.errors import PermissionDenied, Unauthenticated
from services.runtime.failures import CannotStart
from services.runtime.interceptors import Concern, Context, Rpc
from services.runtime.private_files import too_open

TOKEN_KEY: Final = "x-junctor-service-token"  # noqa: S105 - the name of the metadata field
MIN_TOKEN_LENGTH = 32
"""Characters; what is made here has 43 (256 bits)."""


class Secret:
    """A value that must not be seen: ``repr``, ``str`` and formats hide it, :meth:`reveal` gives it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value, to be sent or compared, never logged."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('**********')"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        """Compare in constant time."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    __hash__ = None  # type: ignore[assignment]  # a hash would tell two secrets apart

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a Secret is not pickled")


class TokenFileError(CannotStart):
    """The token file cannot be used; the message says which file and why, never what is in it."""


class Access(Enum):
    """Who may call a gRPC service."""

    PUBLIC = "public"
    """Callers; ``JUNCTOR_AUTH`` decides."""
    INTERNAL = "internal"
    """Other junctor processes only, known by service token or certificate (:class:`PeerRule`)."""


HEALTH_AND_REFLECTION: Mapping[str, Access] = {
    "grpc.health.v1.Health": Access.PUBLIC,
    "grpc.reflection.v1alpha.ServerReflection": Access.PUBLIC,
    "grpc.channelz.v1.Channelz": Access.INTERNAL,
}
"""Rows that every server has: probes and tools carry no token, channelz shows addresses."""


def load_or_create_token(path: Path) -> Secret:
    """Read the service token from ``path``; make it (0600, in a 0700 folder) if there is none.

    Processes that start at the same moment end up with the same token: the first link wins. Raises
    :class:`TokenFileError` if the file can be read by others, is too short, or cannot be read or made.
    """
    try:
        if not path.exists():
            _create(path)
        return _read(path)
    except OSError as error:
        raise TokenFileError(f"cannot use the service token file {path}: {error.strerror}") from error


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link fails if the name is taken, a rename would replace the token of a process that was faster.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def _read(path: Path) -> Secret:
    with path.open() as file:
        status = os.fstat(file.fileno())
        if too_open(status):
            mode = stat.S_IMODE(status.st_mode)
            raise TokenFileError(
                f"the service token file {path} can be read by others (mode {mode:04o}): run chmod 600 {path}"
            )
        value = file.read(4096).strip()
    if len(value) < MIN_TOKEN_LENGTH or not value.isascii() or not value.isprintable():
        raise TokenFileError(
            f"the service token file {path} must hold at least {MIN_TOKEN_LENGTH} printable ASCII characters"
        )
    return Secret(value)


def own_credential(token: Secret) -> Secret:
    """Return what a process of junctor shows at an edge of its own: the service token itself stays off that way."""
    return Secret(hmac.new(token.reveal().encode(), b"junctor own credential 1", "sha256").hexdigest())


def token_metadata(token: Secret) -> Metadata:
    """Return the metadata that shows the token; give it to ``junctor.channel.open_peer``."""
    return ((TOKEN_KEY, token.reveal()),)


class Proof(Enum):
    """What opens internal services to a caller on a connection with TLS."""

    EITHER = "either"
    """The service token, or an allowed name in the certificate."""
    CERTIFICATE = "certificate"
    """An allowed name; the token does not count."""
    BOTH = "both"
    """The two together."""


@dataclass(frozen=True, slots=True)
class PeerRule:
    """Which certificates open internal services. Only names that the TLS handshake has verified are looked at."""

    names: frozenset[str] = frozenset()
    """DNS names and URIs (``spiffe://…``) as they are written in certificates; ``*``: every verified certificate."""
    proof: Proof = Proof.EITHER


TOKEN_ONLY: Final = PeerRule()


def authorize(policy: Mapping[str, Access], token: Secret | None, peers: PeerRule = TOKEN_ONLY) -> Concern:
    """Refuse calls of internal services that show neither the token nor a certificate that ``peers`` allows.

    ``token`` None: no token opens them.
    """
    table = {**HEALTH_AND_REFLECTION, **policy}

    @asynccontextmanager
    async def concern(context: Context, rpc: Rpc) -> AsyncIterator[None]:
        if table.get(rpc.service, Access.INTERNAL) is Access.INTERNAL:
            check_peer(context, token, peers)
        yield

    return concern


def check_peer(context: Context, token: Secret | None, peers: PeerRule) -> None:
    """Raise Unauthenticated or PermissionDenied unless the caller is a peer by the rule.

    A connection without TLS has only the token to show. Where certificates are demanded, there is none but inside of
    the process.
    """
    shown = _identity(context)
    if shown is None or (peers.proof is Proof.EITHER and not _is_allowed(shown, peers)):
        check_token(context, token)
        return
    if peers.proof is Proof.BOTH:
        check_token(context, token)
    if not _is_allowed(shown, peers):
        raise PermissionDenied("This service is internal: no name in the caller's certificate is allowed here.")


def is_peer(context: Context, token: Secret | None, peers: PeerRule) -> bool:
    """Tell whether the caller is another process of junctor, by :func:`check_peer`."""
    try:
        check_peer(context, token, peers)
    except (Unauthenticated, PermissionDenied):
        return False
    return True


def _identity(context: Context) -> frozenset[str] | None:
    """Return the names of the verified certificate, empty without one; None on a connection without TLS.

    Names from the subject, addresses and e-mail addresses do not count: nobody vouches for them in the same way.
    """
    found = context.auth_context()
    if found.get("transport_security_type") != [b"ssl"]:
        return None
    names = (*found.get("peer_dns", ()), *found.get("peer_uri", ()))
    return frozenset(name.decode("ascii", "replace") for name in names)


def _is_allowed(shown: frozenset[str], peers: PeerRule) -> bool:
    return bool(shown & peers.names) or (bool(shown) and "*" in peers.names)


def check_token(context: Context, token: Secret | None) -> None:
    """Raise Unauthenticated without a token in the metadata, PermissionDenied with a wrong one."""
    shown = [value for key, value in context.invocation_metadata() or () if key == TOKEN_KEY]
    if not shown:
        raise Unauthenticated("This service is internal: a service token is needed.")
    if token is None or not all(isinstance(value, str) and Secret(value) == token for value in shown):
        raise PermissionDenied("The service token is not valid here.")
