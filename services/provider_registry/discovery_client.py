"""Asks a provider for its models: one GET on a connection of its own, every part of it bounded.

The address that was checked is the one connected to, so a name cannot change its meaning in between; the name
stays in Host, SNI and the check of the certificate. Redirects are not followed. No text of a failure names an
address, a header or a secret.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address

import httpcore

from junctor.errors import AddressRefused, CredentialUnavailable
from junctor.v1 import provider_registry_pb2 as pb
from services.provider_registry.discovery_rules import listed_ids
from services.runtime import auth_header, base_url
from services.runtime.addresses import Address, AddressPolicy, literal_address
from services.runtime.auth import Secret

FETCH_TIMEOUT = 10.0
"""Seconds for everything from the look-up of the name to the last byte."""
RESPONSE_LIMIT = 4 * 1024 * 1024
_CONNECT_TIMEOUT = 5.0

_NETWORK_ERRORS = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.ProxyError,
)

_BROKE = "the connection broke before its answer was complete"
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (httpcore.ProxyError, "its proxy refused the connection"),
    (httpcore.ConnectTimeout, "it does not accept connections in time"),
    (httpcore.ConnectError, "it does not accept connections"),
    (httpcore.ProtocolError, "its answer broke off or is not HTTP"),
)

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""``await resolver(host, port)``: the addresses of a name, best first. Raises OSError if there are none."""


class DiscoveryFailed(Exception):
    """The provider could not be asked; the text says why, for a person."""


async def system_resolver(host: str, port: int) -> Sequence[str]:
    """Ask the system's resolver, in a thread."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class ModelLister:
    """Fetches model lists under one address policy."""

    def __init__(self, policy: AddressPolicy, *, resolver: Resolver = system_resolver) -> None:
        self._backend = _CheckedBackend(policy, resolver)
        self._context: ssl.SSLContext | None = None

    async def list_ids(self, provider: pb.Provider, key: Secret | None) -> list[str] | None:
        """Return the upstream ids, or None if the provider does not list models as OpenAI does.

        Raises DiscoveryFailed for whatever may be better next time.
        """
        path = f"v1/{provider.models_path.strip('/')}" if provider.HasField("models_path") else "v1/models"
        prefix = provider.api_base_path if provider.HasField("api_base_path") else None
        url = base_url.join(provider.host_url, path, api_base_path=prefix)
        try:
            headers = request_headers(provider, key)
            async with asyncio.timeout(FETCH_TIMEOUT):
                return await self._fetch(provider, url, headers)
        except CredentialUnavailable as error:
            raise DiscoveryFailed(error.message) from None
        except TimeoutError:
            raise DiscoveryFailed(f"no complete answer within {FETCH_TIMEOUT:g} s") from None
        except (*_NETWORK_ERRORS, ssl.SSLError) as error:
            raise DiscoveryFailed(_why(error)) from None

    async def _fetch(self, provider: pb.Provider, url: str, headers: list[tuple[bytes, bytes]]) -> list[str] | None:
        extensions: dict[str, object] = {"timeout": {"connect": _CONNECT_TIMEOUT}}
        if provider.tls.server_name:
            extensions["sni_hostname"] = provider.tls.server_name
        async with (
            self._pool(provider) as pool,
            pool.stream("GET", url, headers=headers, extensions=extensions) as response,
        ):
            if response.status == 404:
                return None
            if not 200 <= response.status < 300:
                raise DiscoveryFailed(_refusal(response.status))
            return listed_ids(await _body(response))

    def _pool(self, provider: pb.Provider) -> httpcore.AsyncConnectionPool:
        return httpcore.AsyncConnectionPool(
            ssl_context=self._tls(provider.tls),
            proxy=httpcore.Proxy(provider.proxy) if provider.proxy else None,
            network_backend=self._backend,
        )

    def _tls(self, tls: pb.ProviderTls) -> ssl.SSLContext:
        if tls.HasField("ca_bundle_pem"):
            return ssl.create_default_context(cadata=tls.ca_bundle_pem)
        if self._context is None:  # reading the system's authorities takes tens of milliseconds
            self._context = ssl.create_default_context()
        return self._context


def request_headers(provider: pb.Provider, key: Secret | None) -> list[tuple[bytes, bytes]]:
    """Return the header fields of a call by the gateway itself: defaults, required ones over them, the key last."""
    fields = {b"accept": b"application/json", b"user-agent": b"junctor"}
    for extra in (provider.default_extra_headers, provider.required_extra_headers):
        fields |= {name.lower().encode(): value.encode() for name, value in extra.values.items()}
    if key is not None:
        name, value = auth_header.parse(provider.auth_header_format).render(key.reveal())
        fields[name] = value
    fields |= {b"accept-encoding": b"identity", b"connection": b"close"}
    return list(fields.items())


class _CheckedBackend(httpcore.AnyIOBackend):
    """Connects to addresses that the policy allows, and to nothing else."""

    def __init__(self, policy: AddressPolicy, resolver: Resolver) -> None:
        self._policy = policy
        self._resolver = resolver

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Look ``host`` up, check, connect to the first allowed address that answers."""
        failure: Exception = DiscoveryFailed("its name cannot be resolved")
        for address in self._allowed(await self._addresses(host, port)):
            try:
                return await super().connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _addresses(self, host: str, port: int) -> list[Address]:
        literal = literal_address(host)
        if literal is not None:
            return [literal]
        try:
            return [ip_address(text) for text in await self._resolver(host, port)]
        except TimeoutError:
            raise
        except (OSError, UnicodeError):
            raise DiscoveryFailed("its name cannot be resolved") from None

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
            raise DiscoveryFailed(refusal.message)
        return allowed


async def _body(response: httpcore.Response) -> bytes:
    codings = [value for name, value in response.headers if name.lower() == b"content-encoding"]
    if any(value.strip().lower() != b"identity" for value in codings):
        raise DiscoveryFailed("it sent a compressed answer, though an uncompressed one was asked for")
    body = bytearray()
    async for chunk in response.aiter_stream():
        body += chunk
        if len(body) > RESPONSE_LIMIT:
            raise DiscoveryFailed(f"its answer is larger than {RESPONSE_LIMIT >> 20} MiB")
    return bytes(body)


def _refusal(status: int) -> str:
    if 300 <= status < 400:
        return f"it answered {status}: redirects are not followed"
    if status in (401, 403):
        return f"it answered {status}: the API key is missing, wrong or not allowed to list models"
    return f"it answered {status}"


def _why(error: BaseException) -> str:
    causes = list(_chain(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return "its TLS certificate cannot be trusted"
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return "TLS could not be agreed on"
    return next((text for kind, text in _REASONS if isinstance(error, kind)), _BROKE)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
