"""Connections of discovery: httpcore's, to addresses that the policy allows, through tunnels of our own.

httpcore's tunnels check a certificate against the URL's host alone, and their failures show the proxy's own words.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

import httpcore

from services.runtime.addresses import AddressPolicy
from services.runtime.egress import Proxy, TlsConfig
from services.runtime.provider_way import Way
from services.runtime.resolving import NameNotResolved, Resolver, addresses_to_connect
from services.runtime.tls import TlsContexts, problem_of
from services.runtime.tunnel import HEAD_LIMIT, ConnectAnswer, ProxyFailed, connect_request

_ERRORS = (httpcore.NetworkError, httpcore.TimeoutException)


class CheckedBackend(httpcore.AnyIOBackend):
    """Connects to one provider, or to its proxy, whatever httpcore asks for."""

    def __init__(self, policy: AddressPolicy, resolver: Resolver, contexts: TlsContexts, way: Way) -> None:
        self._policy = policy
        self._resolver = resolver
        self._contexts = contexts
        self._way = way

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Return a stream to the provider, through a tunnel if need be; to the proxy where that is sent the request.

        Raises NameNotResolved, AddressRefused, ProxyFailed and httpcore's errors.
        """
        way = self._way
        try:
            addresses = await addresses_to_connect(
                way.host, way.port, proxy=way.proxy, policy=self._policy, resolver=self._resolver
            )
        except NameNotResolved:
            if way.proxy is None:
                raise
            raise ProxyFailed("has a name that cannot be resolved.") from None
        stream = await self._first(addresses, way.port if way.proxy is None else way.proxy.port, timeout)
        if way.proxy is None or way.scheme != "https":
            return stream
        try:
            return await self._tunnel(stream, way.proxy, timeout)
        except BaseException:
            await stream.aclose()
            raise

    async def _first(
        self, addresses: list[IPv4Address | IPv6Address], port: int, seconds: float | None
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception = httpcore.ConnectError()
        for address in addresses:
            try:
                return await super().connect_tcp(str(address), port, seconds)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        if self._way.proxy is not None:
            raise ProxyFailed("does not accept connections.")
        raise failure

    async def _tunnel(
        self, stream: httpcore.AsyncNetworkStream, proxy: Proxy, seconds: float | None
    ) -> httpcore.AsyncNetworkStream:
        if proxy.scheme == "https":
            stream = await self._secured(stream, proxy, seconds)
        answer = ConnectAnswer()
        try:
            await stream.write(connect_request(proxy, self._way.host, self._way.port), seconds)
            # Nothing may come behind the answer, so whatever is read at once belongs to it.
            while data := await stream.read(HEAD_LIMIT, seconds):
                if answer.feed(data):
                    return stream
        except httpcore.TimeoutException:
            raise ProxyFailed("did not connect to the provider in time.") from None
        except httpcore.NetworkError:
            pass
        raise ProxyFailed("closed the connection.")

    async def _secured(
        self, stream: httpcore.AsyncNetworkStream, proxy: Proxy, seconds: float | None
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await stream.start_tls(self._contexts.get(TlsConfig(proxy.ca_pem)), proxy.host, seconds)
        except _ERRORS as error:
            cause = error.__cause__ or error.__context__
            problem = problem_of(cause) if isinstance(cause, ssl.SSLError) else ""
            text = f"shows a certificate that {problem}." if problem else "could not agree on TLS."
            raise ProxyFailed(text) from None


def forwarding(proxy: Proxy, contexts: TlsContexts) -> httpcore.Proxy:
    """Return httpcore's form of a proxy that is sent the request itself."""
    fields = [(b"proxy-authorization", proxy.authorization)] if proxy.authorization else []
    host = f"[{proxy.host}]" if ":" in proxy.host else proxy.host
    context = contexts.get(TlsConfig(proxy.ca_pem)) if proxy.scheme == "https" else None
    return httpcore.Proxy(f"{proxy.scheme}://{host}:{proxy.port}", headers=fields, ssl_context=context)
