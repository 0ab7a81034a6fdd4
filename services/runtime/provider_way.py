"""Reads from a provider how it is reached; the same for proxied calls and for discovery."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from junctor.v1 import provider_registry_pb2 as pb
from services.runtime.egress import Egress, Proxy, TlsConfig

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Way:
    """The way to one provider."""

    scheme: str
    host: str
    """Without brackets."""
    port: int
    proxy: Proxy | None
    """None: directly."""
    tls: TlsConfig
    """Of no meaning for an ``http`` URL."""


def way_to(provider: pb.Provider, egress: Egress, client_pem: str = "") -> Way:
    """Return the way; ``client_pem`` is what its client certificate's secret holds. Raises ValueError for a bad URL."""
    url = urlsplit(provider.host_url)
    port = url.port or _PORTS.get(url.scheme, 0)
    own = provider.proxy if provider.HasField("proxy") else None
    tls = provider.tls
    return Way(
        scheme=url.scheme,
        host=url.hostname or "",
        port=port,
        proxy=egress.proxy_for(url.scheme, url.hostname or "", port, own=own),
        tls=TlsConfig(tls.ca_bundle_pem or egress.ca_pem, client_pem, tls.server_name),
    )
