"""TLS of gRPC connections: what a server shows and demands, and channels that move to a new certificate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import grpc

from junctor.channel import CLIENT_RECEIVE_LIMIT, Metadata, Peer, open_channel
from services.runtime.certificates import Authorities, Kept, KeyPair

_LEAVE_SECONDS: Final = 5.0
"""How long a channel that was replaced still takes calls: some are about to begin on it."""
_FOR_EVER: Final = 10 * 365 * 86_400.0


def server_credentials(pair: Kept[KeyPair], clients: Kept[Authorities] | None = None) -> grpc.ServerCredentials:
    """Return what a port shows to callers; with ``clients`` nobody without a certificate of theirs gets a connection.

    Every handshake takes what the files hold by then; connections that exist go on. At least TLS 1.2.
    """
    taken: list[object] = [_in_force(pair, clients)]

    def fetch() -> grpc.ServerCertificateConfiguration | None:  # in a thread of grpc's, before each handshake
        now = _in_force(pair, clients)
        if now == taken[0]:
            return None
        taken[0] = now
        return _configuration(now)

    fetcher: Any = fetch  # its type in the stubs leaves out None: nothing has changed
    made: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
        _configuration(_in_force(pair, clients)), fetcher, require_client_authentication=clients is not None
    )
    return made


_InForce = tuple[KeyPair, Authorities | None]


def _in_force(pair: Kept[KeyPair], clients: Kept[Authorities] | None) -> _InForce:
    return pair.value, None if clients is None else clients.value


def _configuration(material: _InForce) -> grpc.ServerCertificateConfiguration:
    pair, clients = material
    return grpc.ssl_server_certificate_configuration(
        [(pair.key, pair.chain)], root_certificates=None if clients is None else clients.pem
    )


def open_tls_peer(
    target: str, *, name: str, metadata: Metadata = (), authorities: Kept[Authorities], own: Kept[KeyPair] | None = None
) -> Peer:
    """Open a peer over TLS, as :func:`junctor.channel.open_peer` does without: it must have a certificate for its name.

    ``own`` is shown where the peer demands one. When one of the two changes, calls begin on a new connection.
    """

    def make() -> grpc.aio.Channel:
        return open_tls_channel(target, authorities=authorities, own=own)

    channel = RenewedChannel(make)
    authorities.follow(lambda _: channel.renew())
    if own is not None:
        own.follow(lambda _: channel.renew())
    return Peer(channel, name=name, metadata=metadata)


def open_tls_channel(
    target: str, *, authorities: Kept[Authorities], own: Kept[KeyPair] | None, host: str = ""
) -> grpc.aio.Channel:
    """Open a channel with the certificates of now; ``host``: the name that the other end's must have.

    Empty: the target's own.
    """
    pair = None if own is None else own.value
    credentials = grpc.ssl_channel_credentials(
        authorities.value.pem, pair.key if pair else None, pair.chain if pair else None
    )
    return open_channel(target, receive_limit=CLIENT_RECEIVE_LIMIT, credentials=credentials, host=host)


class RenewedChannel(grpc.aio.Channel):
    """A channel that can be exchanged under its stubs: calls begin on the newest, and end where they began."""

    def __init__(self, make: Callable[[], grpc.aio.Channel], *, leave_seconds: float = _LEAVE_SECONDS) -> None:
        self._make = make
        self._leave_seconds = leave_seconds
        self.current = make()
        """The channel on which calls begin."""
        self._renewed = asyncio.Event()
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def leaving(self) -> int:
        """How many channels of before still have calls."""
        return len(self._leaving)

    def renew(self) -> None:
        """Let calls begin on a new channel; the one before is closed after its last call."""
        old, self.current = self.current, self._make()
        self._renewed.set()
        self._renewed = asyncio.Event()
        task = asyncio.get_running_loop().create_task(_leave(old, self._leave_seconds))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def close(self, grace: float | None = None) -> None:
        """Close every channel; running calls are cancelled after ``grace`` seconds."""
        for task in tuple(self._leaving):
            task.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        await self.current.close(grace)

    async def __aenter__(self) -> RenewedChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the state of the newest channel."""
        return self.current.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Return when the newest channel's state is another one, or there is a newer channel."""
        waiting = {
            asyncio.ensure_future(self.current.wait_for_state_change(last_observed_state)),
            asyncio.ensure_future(self._renewed.wait()),
        }
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def channel_ready(self) -> None:
        """Return once connected."""
        while (state := self.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            await self.wait_for_state_change(state)

    def unary_unary(self, method: str, *arguments: Any, **options: Any) -> Any:
        """As ``grpc.aio.Channel`` has it."""
        return _Late(self, lambda channel: channel.unary_unary(method, *arguments, **options))

    def unary_stream(self, method: str, *arguments: Any, **options: Any) -> Any:
        """As ``grpc.aio.Channel`` has it."""
        return _Late(self, lambda channel: channel.unary_stream(method, *arguments, **options))

    def stream_unary(self, method: str, *arguments: Any, **options: Any) -> Any:
        """As ``grpc.aio.Channel`` has it."""
        return _Late(self, lambda channel: channel.stream_unary(method, *arguments, **options))

    def stream_stream(self, method: str, *arguments: Any, **options: Any) -> Any:
        """As ``grpc.aio.Channel`` has it."""
        return _Late(self, lambda channel: channel.stream_stream(method, *arguments, **options))


class _Late:
    """A method of a stub: bound to a channel at the call."""

    __slots__ = ("_bind", "_bound", "_channel", "_owner")

    def __init__(self, owner: RenewedChannel, bind: Callable[[grpc.aio.Channel], Any]) -> None:
        self._owner = owner
        self._bind = bind
        self._channel = owner.current
        self._bound = bind(owner.current)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self._channel is not self._owner.current:
            self._channel = self._owner.current
            self._bound = self._bind(self._channel)
        return self._bound(*arguments, **options)


async def _leave(channel: grpc.aio.Channel, seconds: float) -> None:
    """Close a channel after its last call. None is cancelled: its reader would take that for its own cancellation."""
    try:
        await asyncio.sleep(seconds)
        await channel.close(_FOR_EVER)
    except asyncio.CancelledError:
        await channel.close()
        raise
