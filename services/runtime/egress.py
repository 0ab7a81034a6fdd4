"""How connections to providers leave: proxies and TLS as frozen values, and which of them a provider gets. No I/O.

A provider's own proxy wins over the settings; its empty text means none. The settings' proxies are for the world
outside, so they are never used for this machine (``localhost``, loopback addresses), as in Go's net/http; a provider's
own is used for every host. ``NO_PROXY`` limits the settings' proxies only.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote_to_bytes, urlsplit

from services.runtime.addresses import Network, classify, literal_address
from services.runtime.no_proxy import NoProxy

PROXY_RULE = "must be http://[user:password@]host[:port] or https://…, or none"
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """TLS with one provider, as PEM text. The default: the system's authorities, no client certificate."""

    ca_pem: str = field(default="", repr=False)
    """Authorities to trust instead of the system's."""
    client_pem: str = field(default="", repr=False)
    """Client certificate with its chain, and its key."""
    server_name: str = ""
    """Name for SNI and for the check of the certificate; empty: the provider's host."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy. ``str()`` is its URL without credentials."""

    scheme: str
    """``http``, or ``https`` for TLS to the proxy itself."""
    host: str
    """Name or address, without brackets."""
    port: int
    authorization: bytes = field(default=b"", repr=False)
    """Value of Proxy-Authorization; empty: none. Goes to the proxy and nowhere else."""
    ca_pem: str = field(default="", repr=False)
    """Authorities that vouch for an ``https`` proxy; empty: the system's."""
    foreign: bool = False
    """Named by a provider and not by the settings: its address has to be one that a provider may have."""

    @classmethod
    def parse(cls, text: str) -> Proxy:
        """Read a proxy's URL; ``http://`` may be missing. Raises ValueError, whose text does not show the URL."""
        try:
            url = urlsplit(text if "://" in text else f"http://{text}")
            port = url.port
        except ValueError:
            raise ValueError(PROXY_RULE) from None
        odd = url.path not in ("", "/") or url.query or url.fragment or not text.isprintable() or " " in text
        if url.scheme not in _PORTS or not url.hostname or port == 0 or odd:
            raise ValueError(PROXY_RULE)
        authorization = b""
        if url.username is not None:
            pair = b"%b:%b" % (unquote_to_bytes(url.username), unquote_to_bytes(url.password or ""))
            authorization = b"Basic " + base64.b64encode(pair)
        return cls(url.scheme, url.hostname, port or _PORTS[url.scheme], authorization)

    @property
    def credentials(self) -> tuple[str, ...]:
        """What must never be logged: the credentials as they are sent, and the password in them."""
        if not self.authorization:
            return ()
        sent = self.authorization.removeprefix(b"Basic ").decode()
        password = base64.b64decode(sent).decode("utf-8", errors="replace").partition(":")[2]
        return (sent, password)

    def reveal(self) -> str:
        """Return the URL with its credentials."""
        pair = base64.b64decode(self.authorization.removeprefix(b"Basic "))
        return self._url(":".join(quote(part, safe="") for part in pair.split(b":", 1)))

    def __str__(self) -> str:
        return self._url("[redacted]")

    def _url(self, user: str) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{f'{user}@' if self.authorization else ''}{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Egress:
    """What the settings say of the way out."""

    http_proxy: Proxy | None = None
    """For providers whose URL is ``http``."""
    https_proxy: Proxy | None = None
    """For providers whose URL is ``https``."""
    no_proxy: NoProxy = field(default_factory=NoProxy)
    ca_pem: str = field(default="", repr=False)
    """Authorities to trust instead of the system's, for providers without their own and for proxies."""

    def proxy_for(self, scheme: str, host: str, port: int, *, own: str | None = None) -> Proxy | None:
        """Return the proxy for one provider; ``own`` is what it says itself, None: nothing. Raises ValueError."""
        if own is not None:
            return replace(Proxy.parse(own), ca_pem=self.ca_pem, foreign=True) if own else None
        proxy = self.https_proxy if scheme == "https" else self.http_proxy
        if proxy is None or _is_this_machine(host) or self.no_proxy.matches(host, port):
            return None
        return replace(proxy, ca_pem=self.ca_pem)


def _is_this_machine(host: str) -> bool:
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = literal_address(host)
    return address is not None and classify(address) is Network.LOOPBACK
