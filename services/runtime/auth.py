"""The service token: what one junctor process shows another, whatever ``JUNCTOR_AUTH`` is.

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
from enum import Enum
from pathlib import Path
from typing import Final

from junctor.channel import Metadata
from junctor.errors import PermissionDenied, Unauthenticated
from services.runtime.failures import CannotStart
from services.runtime.interceptors import Concern, Context, Rpc

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
    """Holders of the service token only."""


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
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise TokenFileError(
                f"the service token file {path} can be read by others (mode {mode:04o}): run chmod 600 {path}"
            )
        value = file.read(4096).strip()
    if len(value) < MIN_TOKEN_LENGTH or not value.isascii() or not value.isprintable():
        raise TokenFileError(
            f"the service token file {path} must hold at least {MIN_TOKEN_LENGTH} printable ASCII characters"
        )
    return Secret(value)


def token_metadata(token: Secret) -> Metadata:
    """Return the metadata that shows the token; give it to ``junctor.channel.open_peer``."""
    return ((TOKEN_KEY, token.reveal()),)


def authorize(policy: Mapping[str, Access], token: Secret | None) -> Concern:
    """Refuse calls of internal services that do not show the token; ``token`` None refuses all of them."""
    table = {**HEALTH_AND_REFLECTION, **policy}

    @asynccontextmanager
    async def concern(context: Context, rpc: Rpc) -> AsyncIterator[None]:
        if table.get(rpc.service, Access.INTERNAL) is Access.INTERNAL:
            check_token(context, token)
        yield

    return concern


def check_token(context: Context, token: Secret | None) -> None:
    """Raise Unauthenticated without a token in the metadata, PermissionDenied with a wrong one."""
    shown = [value for key, value in context.invocation_metadata() or () if key == TOKEN_KEY]
    if not shown:
        raise Unauthenticated("This service is internal: a service token is needed.")
    if token is None or not all(isinstance(value, str) and Secret(value) == token for value in shown):
        raise PermissionDenied("The service token is not valid here.")
