"""Opens upstream connections: looks the name up, checks each address by the policy, connects to one.

The address that was checked is the one connected to, so a name cannot change its meaning in between. The name
stays in Host, SNI and the check of the certificate.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address

from junctor.errors import AddressRefused
from services.inference_router.upstream_pool import Pool
from services.inference_router.upstream_protocol import Connection
from services.inference_router.upstream_tls import TlsContexts
from services.inference_router.upstream_types import FailureKind, Origin, TlsConfig, UpstreamFailure
from services.runtime.addresses import Address, AddressPolicy, literal_address

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""``await resolver(host, port)``: the addresses of a name, best first. Raises OSError if there are none."""


async def system_resolver(host: str, port: int) -> Sequence[str]:
    """Ask the system's resolver, in a thread."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Connector:
    """Makes connections for a pool."""

    __slots__ = ("_contexts", "_policy", "_pool", "_resolver")

    def __init__(self, pool: Pool, policy: AddressPolicy, resolver: Resolver) -> None:
        self._pool = pool
        self._policy = policy
        self._resolver = resolver
        self._contexts = TlsContexts()

    async def connect(self, origin: Origin, seconds: float) -> Connection:
        """Return a connection that can be written to, TLS done. Raises UpstreamFailure."""
        try:
            async with asyncio.timeout(seconds) as timer:
                addresses = self._allowed(await self._addresses(origin))
                return await self._first(origin, addresses, timer.when() or 0.0)
        except TimeoutError:
            raise UpstreamFailure(FailureKind.CONNECT_TIMEOUT) from None

    async def _addresses(self, origin: Origin) -> list[Address]:
        literal = literal_address(origin.host)
        if literal is not None:
            return [literal]
        try:
            return [ip_address(text) for text in await self._resolver(origin.host, origin.port)]
        except TimeoutError:
            raise
        except (OSError, UnicodeError):
            raise UpstreamFailure(FailureKind.CONNECT, "The provider's name cannot be resolved.") from None

    def _allowed(self, addresses: list[Address]) -> list[Address]:
        allowed: list[Address] = []
        refusal: AddressRefused | None = None
        for address in addresses:
            try:
                self._policy.check(address)
            except AddressRefused as error:
                refusal = error
            else:
                allowed.append(address)
        if refusal is not None and not allowed:
            raise UpstreamFailure(FailureKind.REFUSED_ADDRESS, refusal.message)
        return allowed

    async def _first(self, origin: Origin, addresses: list[Address], deadline: float) -> Connection:
        """Try the addresses in order; each has its share of the time left, so a dead one is passed."""
        loop = asyncio.get_running_loop()
        failure = UpstreamFailure(FailureKind.CONNECT)
        for index, address in enumerate(addresses):
            share = (deadline - loop.time()) / (len(addresses) - index)
            try:
                async with asyncio.timeout(share):
                    return await self._open(loop, origin, address)
            except TimeoutError:
                failure = UpstreamFailure(FailureKind.CONNECT_TIMEOUT)
            except ssl.SSLError as error:
                raise UpstreamFailure(FailureKind.TLS, _tls_text(error)) from None
            except OSError:
                failure = UpstreamFailure(FailureKind.CONNECT)
        raise failure

    async def _open(self, loop: asyncio.AbstractEventLoop, origin: Origin, address: Address) -> Connection:
        secure = origin.scheme == "https"
        config = origin.tls or TlsConfig()
        _, connection = await loop.create_connection(
            lambda: Connection(self._pool, origin),
            str(address),
            origin.port,
            ssl=self._contexts.get(config) if secure else None,
            server_hostname=(config.server_name or origin.host) if secure else None,
        )
        return connection


def _tls_text(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"The provider's certificate cannot be trusted: {error.verify_message}."
    return ""
