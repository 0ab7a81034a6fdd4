"""The seam between edge and router: one call in; one head, body bytes and one outcome out.

Edge and router meet in these types only. In one process the edge hands its own sink to the router; across
processes a gRPC servicer and a gRPC client carry the same three things as frames. Coroutines run per request,
callbacks per chunk: nothing between the provider's socket and the sink queues, awaits or makes a task. What is made
for every call and never changes is a ``Struct``: a frozen dataclass takes eight times as long to make.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

import msgspec

from junctor.errors import JunctorError

Headers = list[tuple[bytes, bytes]]
"""HTTP fields in order; names in lower case, values as received."""


class KnownHeaders(Headers):
    """Fields, without ``content-length``, of a request head that its caller repeats byte for byte. Never changed.

    Whoever makes something of the same head again and again keeps it here; it lives as long as the head is known.
    """

    __slots__ = ("content_type", "credential", "upstream")

    def __init__(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        super().__init__(fields)
        self.content_type: bytes | None = None
        self.credential: str | None = None
        self.upstream: dict[str, tuple[object, Any]] = {}
        """By provider (``workspace/name``): the provider as it was, and the head that it is sent."""


class Route(Enum):
    """How a call names its target."""

    OPENAI = "openai"
    """``model`` of the JSON body, ``{workspace}/`` in front of it optional, that workspace only."""
    MODEL = "model"
    """Virtual model or entity ``name`` of ``workspace``; the body's ``model`` is overwritten."""
    PROVIDER = "provider"
    """Provider ``name`` of ``workspace``: a pure reverse proxy, whatever its status."""
    PLAIN = "plain"
    """``model`` of the body, looked up as on plain ``/v1``: any workspace, bare names, vendor ids."""

    __hash__ = object.__hash__
    """Members are unique; Enum's own hash is a call into Python, several times a request."""


@dataclass(slots=True)
class Call:
    """One inference request, not yet routed."""

    route: Route
    workspace: str
    name: str
    """Model or provider of the path; empty for OPENAI and PLAIN."""
    method: str
    path: bytes
    """What follows ``/-/`` (or ``/v1/`` with its ``v1/`` for PLAIN), percent-encoding intact, no query."""
    query: bytes = b""
    """Query string without ``?``, verbatim."""
    headers: Headers = field(default_factory=list)
    body: bytes = b""
    request_id: str = ""
    timeout: float | None = None
    """Seconds for the whole call, all attempts together; None: the setting."""
    min_revision: str = ""
    """``store:revision`` pairs, comma-separated, that the catalog must have reached first."""
    session: str = ""
    """Key of sticky routing; empty: none."""
    want_receipt: bool = False
    connect_timeout: float | None = None
    """Seconds for one attempt to connect; shortens the provider's own timer, never lengthens it. None: that one."""
    first_byte_timeout: float | None = None
    """Seconds from the first request byte to the first body byte of one attempt; as above."""
    idle_timeout: float | None = None
    """Seconds between two body bytes; as above."""
    tags: tuple[tuple[str, str], ...] = ()
    """Labels that the caller gave for usage records and logs, by name."""
    principal: Any = None
    """Who calls, a ``services.access.identity.Caller``; None: auth is off."""
    assertion: bytes = b""
    """Who calls, as an edge in another process says it, signed; empty: it is in :attr:`principal`."""
    may_ping: bool = True
    """An event stream may carry comments in its silences; false where the caller gets no such stream."""


@dataclass(slots=True)
class Head:
    """The start of an answer. Sent once, with or just before its first body byte: failover is over then."""

    status: int
    headers: Headers
    """Fit to pass on: no hop-by-hop, framing or cookie fields. The sink adds its own framing."""
    length: int | None
    """Exact body length in bytes if known, else None."""
    event_stream: bool
    """The body is ``text/event-stream``, and not compressed: an event can be put behind it."""
    provider: str
    """``workspace/name`` of the provider that answers."""
    attempts: int
    """How many providers were tried, this one included."""
    entity: str = ""
    """``workspace/name`` of the model entity that answers; empty on a call by provider."""
    upstream_model: str = ""
    """Name of the model as the provider knows it; empty on a call by provider."""
    upstream_seconds: float | None = None
    """Seconds that went to providers until now, all attempts together; None: not known."""


class Verdict(Enum):
    """How a call ended. Framing decides first: a clean end of the body is COMPLETE, with or without ``[DONE]``."""

    COMPLETE = "complete"
    TRUNCATED = "truncated"
    """The provider's connection ended before the body did."""
    STALLED = "stalled"
    """No body byte within the idle timer."""
    CANCELLED = "cancelled"
    """The caller went away."""
    PROVIDER_ERROR = "provider_error"
    """The provider's answer broke HTTP after it had begun, or its coding."""
    TIMED_OUT = "timed_out"
    """The total timer ran out after the answer had begun."""

    __hash__ = object.__hash__
    """As of Route."""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens as the provider reported them; None where it did not."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One try at one provider."""

    provider: str
    status: int
    """HTTP status received; 0: none."""
    failure: str
    """Empty if this attempt's answer was used; else ``connect``, ``reset``, ``timeout``, ``status`` …"""
    milliseconds: float


@dataclass(slots=True)
class Outcome:
    """How a call ended, after its head was sent."""

    verdict: Verdict
    error: JunctorError | None = None
    """Why it is not COMPLETE; its message is fit for the caller."""
    attempts: tuple[Attempt, ...] = ()
    usage: Usage | None = None
    upstream_seconds: float = 0.0
    total_seconds: float = 0.0
    receipt: bytes = b""


class Source(Protocol):
    """Where the bytes come from; a full sink pauses it."""

    def pause_reading(self) -> None:
        """Stop reading from the provider until :meth:`resume_reading`. May be called twice."""

    def resume_reading(self) -> None:
        """Go on reading. May be called when not paused."""


class Sink(Protocol):
    """Where an answer goes. All calls come from the event loop's thread, none of them blocks.

    Order: ``head`` once, ``data`` any number of times, ``end`` once. A call that fails before its head calls
    none of them: :meth:`Invoker.invoke` raises instead. An exception in a sink ends that call only.
    """

    def head(self, head: Head, source: Source) -> None:
        """Take the head. ``source`` may be paused and resumed until ``end``."""

    def data(self, data: bytes) -> None:
        """Take body bytes; never empty."""

    def end(self, outcome: Outcome) -> None:
        """Take the end. Anything but COMPLETE must not look complete to the caller."""


class Invoker(Protocol):
    """What the edge needs of a router: this one method, direct or over gRPC."""

    async def invoke(self, call: Call, sink: Sink) -> Outcome:
        """Serve one call into ``sink``.

        Returns the outcome that ``sink.end`` got. Raises :class:`~junctor.errors.JunctorError` if it failed
        before the head. Cancelling the task aborts the provider's connection at once.
        """
