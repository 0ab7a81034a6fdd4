"""Every gRPC server of junctor is made here: the interceptors in their order, limits, health, reflection.

A reader who asks "what happens to each call" finds the answer in :func:`create_server`.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from junctor.channel import KEEPALIVE_MS, METADATA_LIMIT
from services.runtime.auth import TOKEN_ONLY, Access, PeerRule, Secret, authorize
from services.runtime.grpc_door import aio_server
from services.runtime.health import SERVICE_NAME as HEALTH
from services.runtime.health import HealthBoard, HealthServicer
from services.runtime.interceptors import (
    CallCounters,
    Chain,
    Concern,
    Drain,
    Judge,
    access_log,
    call_context,
    errors,
)

ServicerT = TypeVar("ServicerT")

_LAST_SECONDS = 0.5
"""How long a call that is cut has for saying so."""
REGISTRY_RECEIVE_LIMIT = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server takes. Sizes in bytes."""

    receive: int = REGISTRY_RECEIVE_LIMIT
    """Of one message. A router: the request body limit and 1 MiB for the rest of the frame."""
    streams: int = 10_000
    """Calls at once on one connection."""
    connections: int = 10_000
    """At once; a further one is closed as it comes."""
    calls: int = 50_000
    """At once, on all connections; a further one is RESOURCE_EXHAUSTED."""
    waiting: int = 3_000
    """Calls that came and were not begun; a further one is CANCELLED, which junctor's channels repeat."""
    handshake_ms: int = 10_000
    """Until a connection has said what it is (TLS, then HTTP/2's first frames)."""
    keepalive_ms: int = KEEPALIVE_MS
    """How often the server asks a silent connection whether it lives."""
    ping_interval_ms: int = 9_000
    """Pings more often than this cut the connection. Clients may send one every 10 s, and no timer is exact."""
    age: float | None = None
    """Seconds after which a connection is told to go and to come back, perhaps to another process; None: never."""
    age_grace: float = 1800.0
    """Seconds that calls of such a connection may still take: no less than the longest stream."""


class BindError(OSError):
    """The address cannot be listened on; ``host``, ``port`` and ``errno`` say where and why."""

    def __init__(self, host: str, port: int, number: int, why: str, *, flag: str = "--grpc-port") -> None:
        super().__init__(number, f"cannot listen on {host}:{port}: {why}")
        self.host = host
        self.port = port
        self.flag = flag
        """The flag that chooses the port."""

    def __str__(self) -> str:
        return str(self.strerror)


class GrpcServer:
    """A server under construction, then running. Made by :func:`create_server`."""

    def __init__(
        self,
        server: grpc.aio.Server,
        *,
        board: HealthBoard,
        drain: Drain,
        reuse_port: bool,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self._server = server
        self._credentials = credentials
        self._drain = drain
        self._reuse_port = reuse_port
        self._services: list[str] = []
        self.health = board
        self.port = 0
        """Set by :meth:`bind`."""

    @property
    def services(self) -> tuple[str, ...]:
        """Full names of the services added so far."""
        return tuple(self._services)

    def add(self, register: Callable[[ServicerT, Any], None], servicer: ServicerT) -> None:
        """Add a servicer by its generated ``add_…_to_server``. It is NOT_SERVING until the board says so."""
        register(servicer, self)

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Take handlers from generated code, noting the service's name for health and reflection."""
        for handler in handlers:
            name = handler.service_name() if isinstance(handler, grpc.ServiceRpcHandler) else None
            if name:
                self._services.append(name)
                if not name.startswith("grpc."):
                    self.health.add(name)
            self._server.add_generic_rpc_handlers((handler,))

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Called by generated code; ``grpc.aio`` looks methods up by the generic handlers alone."""

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Serve, and return the port; listens as :meth:`bind` does, which raises, unless that was done before."""
        self.add(health_pb2_grpc.add_HealthServicer_to_server, HealthServicer(self.health))
        reflection.enable_server_reflection((*self._services, reflection.SERVICE_NAME), self._server)
        if not self.port:
            self.bind(host, port)
        await self._server.start()
        return self.port

    def bind(self, host: str, port: int) -> int:
        """Listen without serving yet, and return the port (``port`` 0: a free one). Raises :class:`BindError`."""
        self.port = self._listen(host, port, self._credentials)
        return self.port

    def bind_peers(self, host: str, port: int, credentials: grpc.ServerCredentials) -> int:
        """Listen on one more port, for other processes of junctor, whose certificates it demands; see :meth:`bind`."""
        return self._listen(host, port, credentials, flag="--peer-port")

    def _listen(
        self, host: str, port: int, credentials: grpc.ServerCredentials | None, *, flag: str = "--grpc-port"
    ) -> int:
        if port and not self._reuse_port:
            _probe(host, port, flag=flag)  # grpc says neither the errno nor a line fit to be read
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if credentials is None:
                bound = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, credentials)
        except RuntimeError:
            bound = 0
        if not bound:
            raise BindError(host, port, errno.EADDRNOTAVAIL, "the address cannot be used", flag=flag)
        return int(bound)

    def bind_inside(self) -> int:
        """Listen on a free loopback port as well, where callers reach this very process; returns it.

        With a shared port one's own calls may end at another process; with TLS they need a certificate.
        """
        return int(self._server.add_insecure_port("127.0.0.1:0"))

    async def stop(self, grace: float | None) -> None:
        """Say NOT_SERVING, end Watches, stop accepting; wait ``grace`` seconds for calls, then cancel them."""
        self.health.drain()
        self._drain.begin()
        if grace is None:
            await self._server.stop(None)
            return
        stopped = asyncio.ensure_future(self._server.stop(grace + _LAST_SECONDS))
        done, _ = await asyncio.wait({stopped}, timeout=grace)
        if not done:
            self._drain.expire()  # a status of ours, before grpc cancels without a word
        await stopped

    async def wait(self) -> None:
        """Return when the server has stopped."""
        await self._server.wait_for_termination()


def create_server(  # noqa: PLR0913 - the one place where a server is put together; all keyword-only
    *,
    policy: Mapping[str, Access],
    token: Secret | None,
    limits: Limits | None = None,
    counters: CallCounters | None = None,
    board: HealthBoard | None = None,
    reuse_port: bool = False,
    channelz_too: bool = False,
    credentials: grpc.ServerCredentials | None = None,
    peers: PeerRule = TOKEN_ONLY,
    guards: Sequence[tuple[Concern, Judge]] = (),
) -> GrpcServer:
    """Make a server without services. Call it in the running loop, ``add`` servicers, then ``start``.

    ``policy`` maps full service names to who may call them; a missing one is internal. ``token`` opens
    internal services, and so do certificates that ``peers`` allows. ``credentials`` None: without TLS. ``guards``
    decide about public services: who calls, then whether they may do what the decoded request asks.
    """
    drain = Drain()
    concerns: list[Concern] = [  # outermost first
        call_context,  # request id, deadline, principal slot
        access_log(counters or CallCounters()),  # outside errors: sees the final status
        errors,  # the one translation to a status
        drain.concern,  # inside errors: a cut Watch ends as UNAVAILABLE
        authorize(policy, token, peers),  # inside errors: a refusal is translated like any other
        *(concern for concern, _ in guards),
    ]
    server = aio_server(
        interceptors=[Chain(concerns, [judge for _, judge in guards])],
        most=(limits or Limits()).calls,
        options=_options(limits or Limits(), reuse_port, channelz_too),
    )
    made = GrpcServer(server, board=board or HealthBoard(), drain=drain, reuse_port=reuse_port, credentials=credentials)
    if channelz_too:
        channelz.add_channelz_servicer(server)
    return made


def _options(limits: Limits, reuse_port: bool, channelz_too: bool) -> list[tuple[str, int]]:
    options = [
        ("grpc.max_receive_message_length", limits.receive),
        ("grpc.max_send_message_length", -1),  # the receiver's limit counts
        ("grpc.max_metadata_size", METADATA_LIMIT),
        ("grpc.absolute_max_metadata_size", METADATA_LIMIT * 5 // 4),  # between the two: refused ever more often
        ("grpc.max_concurrent_streams", limits.streams),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        # Calls that no handler has begun yet, of all connections together; one of a flood of resets costs 12 KiB here.
        ("grpc.server.max_pending_requests", limits.waiting),
        ("grpc.server.max_pending_requests_hard_limit", limits.waiting),
        ("grpc.server_handshake_timeout_ms", limits.handshake_ms),
        ("grpc.keepalive_time_ms", limits.keepalive_ms),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),  # a stream may be silent for longer than two pings
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", limits.ping_interval_ms),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", limits.ping_interval_ms),
        ("grpc.so_reuseport", int(reuse_port)),
        ("grpc.enable_channelz", int(channelz_too)),
    ]
    if limits.age is not None:
        options += [
            ("grpc.max_connection_age_ms", round(limits.age * 1000)),
            ("grpc.max_connection_age_grace_ms", round(limits.age_grace * 1000)),
        ]
    return options


def reserve(host: str, port: int, *, flag: str = "--grpc-port") -> socket.socket:
    """Take a port (0: a free one) for processes that will share it; it stays taken until the socket is closed.

    Nothing is accepted on it: a bound socket that does not listen gets no connections. Raises :class:`BindError`.
    """
    if port:
        _probe(host, port, flag=flag)
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    taken = socket.socket(family, kind)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(address)
    except OSError as error:
        taken.close()
        raise BindError(host, port, error.errno or 0, str(error.strerror).lower(), flag=flag) from error
    return taken


def _probe(host: str, port: int, *, flag: str) -> None:
    """Bind and let go, for an error that says why."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise BindError(host, port, errno.EADDRNOTAVAIL, "the host name is not known", flag=flag) from error
    except OSError as error:
        why = "the port is taken" if error.errno == errno.EADDRINUSE else str(error.strerror).lower()
        raise BindError(host, port, error.errno or 0, why, flag=flag) from error


__all__ = ["HEALTH", "BindError", "GrpcServer", "Limits", "create_server", "reserve"]
