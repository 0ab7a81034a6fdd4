"""What an upstream exchange is made of: timers, request, receiver, and the one way it fails."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from services.inference_router.origin import Origin
from services.runtime.exchange import Headers

if TYPE_CHECKING:
    from services.inference_router.upstream_protocol import Transfer

__all__ = ["TEXTS", "FailureKind", "Origin", "Receiver", "Timers", "UpstreamFailure", "UpstreamRequest"]


@dataclass(frozen=True, slots=True)
class Timers:
    """Limits of one exchange, in seconds."""

    connect: float = 5
    """From the look-up of the name to a connection that can be written to, TLS included."""
    first_byte: float = 300
    """From the first request byte sent to the first body byte, or to the end of an answer without body."""
    idle: float = 120
    """Between two body bytes, not counting the time that the receiver has paused reading."""


@dataclass(slots=True)
class UpstreamRequest:
    """One HTTP/1.1 request."""

    origin: Origin
    method: bytes
    target: bytes
    """Path and query as they go on the wire."""
    headers: Headers
    """Without ``host``, ``content-length``, ``transfer-encoding``: the client adds what it needs of them."""
    body: bytes = b""
    timers: Timers = field(default_factory=Timers)
    start: bytes = b""
    """Request line and fields as ``upstream.encode_start`` wrote them before; empty: they are written now."""
    connect_seconds: float = 0.0
    """What the client spent on new connections for it; the client writes it."""


class Receiver(Protocol):
    """Takes one answer, synchronously, from inside the socket's read callback.

    ``on_head`` once, ``on_data`` at most once per socket read with all that the read brought, ``on_end`` once
    and only after a complete answer. Interim (1xx) answers and trailers are not shown. An exception in any of
    them closes the connection and comes out of ``exchange``.
    """

    def on_head(self, status: int, headers: Headers, length: int | None, transfer: Transfer) -> None:
        """Take status (200–599), fields (lower-case names), number of body bytes to come if known."""

    def on_data(self, data: bytes) -> None:
        """Take body bytes; never empty."""

    def on_end(self) -> None:
        """The answer is complete."""


class FailureKind(Enum):
    """Why an exchange failed."""

    CONNECT = "connect"
    REFUSED_ADDRESS = "refused_address"
    TLS = "tls"
    RESET = "reset"
    CLOSED = "closed"
    CONNECT_TIMEOUT = "connect_timeout"
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    MALFORMED = "malformed"
    TRUNCATED = "truncated"


TEXTS: dict[FailureKind, str] = {
    FailureKind.CONNECT: "No connection to the provider could be made.",
    FailureKind.REFUSED_ADDRESS: "The network policy does not allow the provider's address.",
    FailureKind.TLS: "No secure connection to the provider could be made.",
    FailureKind.RESET: "The provider reset the connection.",
    FailureKind.CLOSED: "The provider closed the connection before it answered.",
    FailureKind.CONNECT_TIMEOUT: "The provider did not accept a connection in time.",
    FailureKind.FIRST_BYTE_TIMEOUT: "The provider did not begin its answer in time.",
    FailureKind.IDLE_TIMEOUT: "The provider stopped sending in the middle of its answer.",
    FailureKind.MALFORMED: "The provider's answer is not valid HTTP.",
    FailureKind.TRUNCATED: "The provider's answer ended before it was complete.",
}


class UpstreamFailure(Exception):
    """No complete answer. The text is fit for a caller: no address, no detail of the provider's network."""

    def __init__(self, kind: FailureKind, text: str = "") -> None:
        super().__init__(text or TEXTS[kind])
        self.kind = kind
        self.request_started = False
        """Any byte of the request was written."""
        self.response_started = False
        """Any byte of an answer, interim ones included, was received."""
        self.head_received = False
        """``on_head`` was called."""
