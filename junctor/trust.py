"""Whom a client trusts to be junctor: the authorities of a file, or the public ones."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from junctor.config import Settings
from junctor.errors import FieldViolation, InvalidField

if TYPE_CHECKING:  # loaded by who calls over gRPC
    import grpc

_PLAIN, _SECURE = "http://", "https://"


def context(ca_file: str) -> ssl.SSLContext:
    """Return a context for HTTPS that trusts the authorities of a PEM file. Raises InvalidField for ``ca_file``."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # names are checked, and TLS is 1.2 at least
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        made.load_verify_locations(Path(ca_file).expanduser())
    except OSError:  # ssl.SSLError is one
        raise _unfit(ca_file) from None
    return made


def grpc_address(settings: Settings) -> tuple[str, bool]:
    """Return the gRPC target, and whether it is called over TLS."""
    target = settings.grpc_target
    if target.startswith((_PLAIN, _SECURE)):
        return target.partition("://")[2].rstrip("/"), target.startswith(_SECURE)
    return target, settings.base_url.startswith(_SECURE)


def grpc_way(settings: Settings) -> tuple[str, grpc.ChannelCredentials | None]:
    """Return the gRPC target, and what it is called with: None for no TLS. Raises InvalidField for ``ca_file``."""
    target, secure = grpc_address(settings)
    if not secure:
        return target, None
    import grpc

    return target, grpc.ssl_channel_credentials(_bundle(settings.ca_file) if settings.ca_file else None)


def _bundle(ca_file: str) -> bytes:
    context(ca_file)  # what is no bundle would only be told by calls that fail
    return Path(ca_file).expanduser().read_bytes()


def _unfit(ca_file: str) -> InvalidField:
    rule = "must be a file with PEM certificates that can be read"
    return InvalidField(f"the CA file {ca_file} {rule}", violations=(FieldViolation("ca_file", rule),))
