"""TLS contexts for connections to providers: at least TLS 1.2, names checked, ALPN ``http/1.1``.

The check of the certificate cannot be turned off.
"""

from __future__ import annotations

import os
import re
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.runtime.egress import TlsConfig

_MOST_CONTEXTS = 256
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")

_CERTIFICATE_PROBLEMS = {
    # Numbers of X509_V_ERR_*, <openssl/x509_vfy.h>.
    9: "is not valid yet",
    10: "has expired",
    18: "is not trusted: it vouches for itself",
    19: "is not trusted: its authority is unknown",
    20: "is not trusted: its authority is unknown",
    21: "is not trusted: its authority is unknown",
    23: "has been revoked",
    62: "is for another host name",
    64: "is for another address",
}

_ALERTS = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "demands a client certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "does not trust the client certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "does not accept the client certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "does not accept the client certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "does not accept the client certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "says that the client certificate has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "says that the client certificate has been revoked",
}
"""OpenSSL's reasons for alerts that were received (RFC 8446 §6.2)."""


class UnfitPem(Exception):
    """A PEM text is none, or key and certificate do not belong together. Shows nothing of it."""


class TlsContexts:
    """Makes each context once: reading the system's authorities takes tens of milliseconds."""

    __slots__ = ("_contexts",)

    def __init__(self) -> None:
        self._contexts: dict[TlsConfig, ssl.SSLContext] = {}

    def get(self, config: TlsConfig) -> ssl.SSLContext:
        """Return the context. Raises UnfitPem."""
        context = self._contexts.get(config)
        if context is None:
            if len(self._contexts) >= _MOST_CONTEXTS:  # configurations of providers that are long gone
                self._contexts.clear()
            context = self._contexts[config] = _context(config)
        return context

    def forget(self, config: TlsConfig) -> None:
        """Drop a context, and with it the key that it holds."""
        self._contexts.pop(config, None)


def problem_of(error: ssl.SSLError) -> str:
    """Say what is wrong, to go behind ``certificate``; empty if it is not the certificate. Names no host."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return ""
    return _CERTIFICATE_PROBLEMS.get(error.verify_code, "cannot be trusted")


def refusal_by(error: ssl.SSLError) -> str:
    """Say what the other side has against our certificate, to go behind its name; empty if it is not that."""
    return _ALERTS.get(error.reason or "", "")


def _context(config: TlsConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=_certificates(config.ca_pem) if config.ca_pem else None)
    except ssl.SSLError:
        raise UnfitPem("The bundle of authorities cannot be used") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if config.client_pem:
        try:
            with as_file(config.client_pem) as path:
                context.load_cert_chain(path)
        except ssl.SSLError:
            raise UnfitPem("The client certificate and its key cannot be used") from None
    return context


def _certificates(bundle: str) -> str:
    """Leave out what bundles have between certificates: names, in any script, which ssl does not take."""
    return "\n".join(_CERTIFICATE.findall(bundle)) or "none"


@contextmanager
def as_file(pem: str) -> Iterator[Path]:
    """OpenSSL reads certificates from files only; where it can be, that file is in memory and has no name."""
    try:
        number = os.memfd_create("junctor-tls", os.MFD_CLOEXEC)
    except (AttributeError, OSError):  # not Linux, or not allowed
        with tempfile.TemporaryDirectory(prefix="junctor-tls-") as folder:  # made with mode 0700
            path = Path(folder, "client.pem")
            path.touch(mode=0o600)
            path.write_text(pem, encoding="ascii")
            yield path
        return
    try:
        os.write(number, pem.encode("ascii"))
        yield Path(f"/proc/self/fd/{number}")
    finally:
        os.close(number)
