"""Opens upstream connections: looks the name up, checks each address by the policy, connects to one.

Directly or through a proxy; which addresses are checked then is told in :mod:`services.runtime.resolving`. One timer
bounds everything up to a connection that can be written to, TLS included.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import TypeVar

from junctor.errors import AddressRefused
from services.inference_router.upstream_pool import Pool
from services.inference_router.upstream_protocol import Connection
from services.inference_router.upstream_proxy import ForwardConnection, Tunnel
from services.inference_router.upstream_types import FailureKind, Origin, UpstreamFailure
from services.runtime.addresses import Address, AddressPolicy
from services.runtime.egress import Proxy, TlsConfig
from services.runtime.resolving import NameNotResolved, Resolver, addresses_to_connect, system_resolver
from services.runtime.tls import TlsContexts, UnfitPem, problem_of, refusal_by
from services.runtime.tunnel import connect_request

__all__ = ["Connector", "Resolver", "system_resolver"]

_P = TypeVar("_P", bound=asyncio.Protocol)

_PROXY_TEXTS = {
    FailureKind.CONNECT: "No connection to the proxy could be made.",
    FailureKind.CONNECT_TIMEOUT: "The proxy did not connect to the provider in time.",
}


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
                addresses = await addresses_to_connect(
                    origin.host, origin.port, proxy=origin.proxy, policy=self._policy, resolver=self._resolver
                )
                return await self._first(origin, addresses, timer.when() or 0.0)
        except TimeoutError:
            raise _failure(FailureKind.CONNECT_TIMEOUT, origin) from None
        except AddressRefused as error:
            raise UpstreamFailure(FailureKind.REFUSED_ADDRESS, error.message) from None
        except UnfitPem as error:
            raise UpstreamFailure(FailureKind.TLS, f"{error}.") from None
        except NameNotResolved:
            whose = "provider" if origin.proxy is None else "proxy"
            raise UpstreamFailure(FailureKind.CONNECT, f"The {whose}'s name cannot be resolved.") from None

    def forget(self, origin: Origin) -> None:
        """Drop what is kept for connections to an origin that is no more."""
        if origin.tls is not None:
            self._contexts.forget(origin.tls)

    async def _first(self, origin: Origin, addresses: list[Address], deadline: float) -> Connection:
        """Try the addresses in order; each has its share of the time left, so a dead one is passed."""
        loop = asyncio.get_running_loop()
        failure = _failure(FailureKind.CONNECT, origin)
        for index, address in enumerate(addresses):
            share = (deadline - loop.time()) / (len(addresses) - index)
            try:
                async with asyncio.timeout(share):
                    return await self._open(origin, address)
            except TimeoutError:
                failure = _failure(FailureKind.CONNECT_TIMEOUT, origin)
            except ssl.SSLError as error:
                raise tls_failure(error, "provider") from None
            except OSError:
                failure = _failure(FailureKind.CONNECT, origin)
        raise failure

    async def _open(self, origin: Origin, address: Address) -> Connection:
        proxy = origin.proxy
        if proxy is not None and origin.scheme == "https":
            return await self._open_tunnel(origin, proxy, address)
        if proxy is not None:
            return await self._to_proxy(proxy, address, lambda: ForwardConnection(self._pool, origin))
        secure = origin.scheme == "https"
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(self._pool, origin),
            str(address),
            origin.port,
            ssl=self._contexts.get(origin.tls or TlsConfig()) if secure else None,
            server_hostname=_server_name(origin) if secure else None,
        )
        return connection

    async def _open_tunnel(self, origin: Origin, proxy: Proxy, address: Address) -> Connection:
        context = self._contexts.get(origin.tls or TlsConfig())
        tunnel = await self._to_proxy(proxy, address, Tunnel)
        try:
            await tunnel.open(connect_request(proxy, origin.host, origin.port))
            transport = await tunnel.secure(context, _server_name(origin))
            connection = Connection(self._pool, origin)
            tunnel.hand_over(transport, connection)
        except BaseException:
            tunnel.abort()
            raise
        return connection

    async def _to_proxy(self, proxy: Proxy, address: Address, factory: Callable[[], _P]) -> _P:
        secure = proxy.scheme == "https"
        try:
            _, protocol = await asyncio.get_running_loop().create_connection(
                factory,
                str(address),
                proxy.port,
                ssl=self._contexts.get(TlsConfig(proxy.ca_pem)) if secure else None,
                server_hostname=proxy.host if secure else None,
            )
        except ssl.SSLError as error:
            raise tls_failure(error, "proxy") from None
        return protocol


def tls_failure(error: ssl.SSLError, whose: str) -> UpstreamFailure:
    """Say why TLS failed; ``whose``: ``provider`` or ``proxy``. No host, address or detail of the certificate."""
    if problem := problem_of(error):
        return UpstreamFailure(FailureKind.TLS, f"The {whose}'s certificate {problem}.")
    if refusal := refusal_by(error):
        return UpstreamFailure(FailureKind.TLS, f"The {whose} {refusal}.")
    return UpstreamFailure(FailureKind.TLS, f"TLS with the {whose} could not be agreed on.")


def _failure(kind: FailureKind, origin: Origin) -> UpstreamFailure:
    return UpstreamFailure(kind, _PROXY_TEXTS[kind] if origin.proxy is not None else "")


def _server_name(origin: Origin) -> str:
    return (origin.tls.server_name if origin.tls is not None else "") or origin.host
