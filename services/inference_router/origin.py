"""The origin of a connection: where to connect, and how. A value; two requests share connections if it is equal."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.runtime.egress import Proxy, TlsConfig


@dataclass(frozen=True, slots=True)
class Origin:
    """Where to connect. Connections are only shared between requests with equal origins."""

    scheme: str
    """``http`` or ``https``."""
    host: str
    """Name or address, without brackets."""
    port: int
    tls: TlsConfig | None = None
    proxy: Proxy | None = None
    """None: connect directly."""
    authority: bytes = field(init=False, repr=False, compare=False)
    """Value of the Host field."""
    absolute: bytes = field(init=False, repr=False, compare=False)
    """What goes in front of the target where a proxy is sent the request itself (absolute-form); else empty."""
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        name = self.host if self.host.isascii() else self.host.encode("idna").decode("ascii")
        host = f"[{name}]" if ":" in name else name
        default = 443 if self.scheme == "https" else 80
        text = host if self.port == default else f"{host}:{self.port}"
        object.__setattr__(self, "authority", text.encode("ascii"))
        forwarded = self.proxy is not None and self.scheme == "http"
        object.__setattr__(self, "absolute", b"http://" + self.authority if forwarded else b"")
        object.__setattr__(self, "_hash", hash((self.scheme, self.host, self.port, self.tls, self.proxy)))

    def __hash__(self) -> int:
        # The pool looks an origin up for every request.
        return self._hash
