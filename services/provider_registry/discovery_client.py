"""Asks a provider for its models: one GET on a connection of its own, every part of it bounded.

It goes the way that calls go: same proxies, same TLS, same check of addresses. Redirects are not followed. No text of
a failure names an address, a header or a secret.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator

import httpcore

from junctor.errors import AddressRefused, CredentialUnavailable
from junctor.v1 import provider_registry_pb2 as pb
from services.provider_registry.discovery_connect import CheckedBackend, forwarding
from services.provider_registry.discovery_rules import listed_ids
from services.runtime import auth_header, base_url
from services.runtime.addresses import AddressPolicy
from services.runtime.auth import Secret
from services.runtime.egress import Egress
from services.runtime.pem import decode_pem
from services.runtime.provider_way import Way, way_to
from services.runtime.resolving import NameNotResolved, Resolver, system_resolver
from services.runtime.tls import TlsContexts, UnfitPem, problem_of, refusal_by
from services.runtime.tunnel import ProxyFailed, refusal

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
    (httpcore.ConnectTimeout, "it does not accept connections in time"),
    (httpcore.ConnectError, "it does not accept connections"),
    (httpcore.ProtocolError, "its answer broke off or is not HTTP"),
)


class DiscoveryFailed(Exception):
    """The provider could not be asked; the text says why, for a person."""


class ModelLister:
    """Fetches model lists under one address policy."""

    def __init__(
        self, policy: AddressPolicy, *, resolver: Resolver = system_resolver, egress: Egress | None = None
    ) -> None:
        """``egress`` is what the settings say of proxies and TLS; None: nothing."""
        self._policy = policy
        self._resolver = resolver
        self._egress = egress or Egress()
        self._contexts = TlsContexts()

    async def list_ids(
        self, provider: pb.Provider, key: Secret | None, certificate: Secret | None = None
    ) -> list[str] | None:
        """Return the upstream ids, or None if the provider does not list models as OpenAI does.

        ``certificate`` is the value of the secret that ``tls`` names. Raises DiscoveryFailed for whatever may be
        better next time.
        """
        path = f"v1/{provider.models_path.strip('/')}" if provider.HasField("models_path") else "v1/models"
        prefix = provider.api_base_path if provider.HasField("api_base_path") else None
        url = base_url.join(provider.host_url, path, api_base_path=prefix)
        try:
            headers = request_headers(provider, key)
            pem = decode_pem(certificate.reveal()).decode("ascii") if certificate is not None else ""
            async with asyncio.timeout(FETCH_TIMEOUT):
                return await self._fetch(way_to(provider, self._egress, pem), url, headers)
        except (CredentialUnavailable, AddressRefused) as error:
            raise DiscoveryFailed(error.message) from None
        except TimeoutError:
            raise DiscoveryFailed(f"no complete answer within {FETCH_TIMEOUT:g} s") from None
        except NameNotResolved:
            raise DiscoveryFailed("its name cannot be resolved") from None
        except UnfitPem as error:
            raise DiscoveryFailed(str(error)) from None
        except ProxyFailed as error:
            raise DiscoveryFailed(f"its proxy {error}".removesuffix(".")) from None
        except (*_NETWORK_ERRORS, ssl.SSLError) as error:
            raise DiscoveryFailed(_why(error)) from None

    async def _fetch(self, way: Way, url: str, headers: list[tuple[bytes, bytes]]) -> list[str] | None:
        extensions: dict[str, object] = {"timeout": {"connect": _CONNECT_TIMEOUT}}
        if way.scheme == "https" and way.tls.server_name:
            extensions["sni_hostname"] = way.tls.server_name
        async with (
            self._pool(way) as pool,
            pool.stream("GET", url, headers=headers, extensions=extensions) as response,
        ):
            if response.status == 404:
                return None
            if response.status == 407 and way.proxy is not None:
                raise ProxyFailed(refusal(407))
            if not 200 <= response.status < 300:
                raise DiscoveryFailed(_refusal(response.status))
            return listed_ids(await _body(response))

    def _pool(self, way: Way) -> httpcore.AsyncConnectionPool:
        secure = way.scheme == "https"
        return httpcore.AsyncConnectionPool(
            ssl_context=self._contexts.get(way.tls) if secure else None,
            proxy=forwarding(way.proxy, self._contexts) if way.proxy is not None and not secure else None,
            network_backend=CheckedBackend(self._policy, self._resolver, self._contexts, way),
        )


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
    problem = next((text for cause in causes if isinstance(cause, ssl.SSLError) and (text := problem_of(cause))), "")
    if problem:
        return f"its TLS certificate {problem}"
    refusal = next((text for cause in causes if isinstance(cause, ssl.SSLError) and (text := refusal_by(cause))), "")
    if refusal:
        return f"it {refusal}"
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return "TLS could not be agreed on"
    return next((text for kind, text in _REASONS if isinstance(error, kind)), _BROKE)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
