"""TLS contexts for upstream connections: at least TLS 1.2, names checked, ALPN ``http/1.1``."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path

from services.inference_router.upstream_types import TlsConfig

_MOST_CONTEXTS = 256


class TlsContexts:
    """Makes each context once: reading the system's authorities takes tens of milliseconds."""

    __slots__ = ("_contexts",)

    def __init__(self) -> None:
        self._contexts: dict[TlsConfig, ssl.SSLContext] = {}

    def get(self, config: TlsConfig) -> ssl.SSLContext:
        """Return the context. Raises ssl.SSLError if one of the PEM texts cannot be used."""
        context = self._contexts.get(config)
        if context is None:
            if len(self._contexts) >= _MOST_CONTEXTS:  # configurations of providers that are long gone
                self._contexts.clear()
            context = self._contexts[config] = _context(config)
        return context


def _context(config: TlsConfig) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=config.ca_pem or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if config.certificate_pem:
        _load_client_certificate(context, config)
    return context


def _load_client_certificate(context: ssl.SSLContext, config: TlsConfig) -> None:
    # OpenSSL through ssl reads certificates from files only.
    with tempfile.TemporaryDirectory(prefix="junctor-tls-") as folder:  # made with mode 0700
        path = Path(folder, "client.pem")
        path.touch(mode=0o600)
        path.write_text(f"{config.certificate_pem}\n{config.key_pem}\n", encoding="ascii")
        context.load_cert_chain(path)
