"""Looks names up and keeps the addresses that a policy allows.

The address that was checked is the one to connect to, so a name cannot change its meaning in between; the name stays
in Host, SNI and the check of the certificate. Through a proxy the proxy looks the name up, so only what the name
itself shows can be checked: an address in any spelling, a metadata service's name.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address

from junctor.errors import AddressRefused
from services.runtime.addresses import Address, AddressPolicy, Network, is_metadata_name, literal_address
from services.runtime.egress import Proxy

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""``await resolver(host, port)``: the addresses of a name, best first. Raises OSError if there are none."""

_ANYWHERE = AddressPolicy(frozenset((Network.PUBLIC, Network.PRIVATE, Network.LOOPBACK)))


class NameNotResolved(Exception):
    """A name has no address."""


async def system_resolver(host: str, port: int) -> Sequence[str]:
    """Ask the system's resolver, in a thread."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def addresses_to_connect(
    host: str, port: int, *, proxy: Proxy | None, policy: AddressPolicy, resolver: Resolver
) -> list[Address]:
    """Return the addresses to connect to in order to reach ``host``, best first: its own, or those of its proxy.

    Raises NameNotResolved, and AddressRefused if none that there is may be connected to.
    """
    if proxy is None:
        return await _allowed(host, port, policy, resolver)
    _check_behind_proxy(host, policy)
    try:
        # The settings' proxy is the operator's word, so it may be anywhere but where nothing may be; one that a
        # provider names has to be where providers may be: else whoever may write providers reaches every port.
        return await _allowed(proxy.host, proxy.port, policy if proxy.foreign else _ANYWHERE, resolver)
    except AddressRefused:
        raise AddressRefused("The network policy does not allow the proxy's address.") from None


async def _allowed(host: str, port: int, policy: AddressPolicy, resolver: Resolver) -> list[Address]:
    allowed: list[Address] = []
    refusal: AddressRefused | None = None
    for address in await _addresses(host, port, resolver):
        try:
            policy.check(address)
        except AddressRefused as error:
            refusal = error
        else:
            allowed.append(address)
    if refusal is not None and not allowed:
        raise refusal
    return allowed


def _check_behind_proxy(host: str, policy: AddressPolicy) -> None:
    literal = literal_address(host)
    if literal is not None:
        policy.check(literal)
    elif is_metadata_name(host):
        raise AddressRefused("The provider's name is a metadata service's; such addresses are never allowed.")


async def _addresses(host: str, port: int, resolver: Resolver) -> list[Address]:
    literal = literal_address(host)
    if literal is not None:
        return [literal]
    try:
        return [ip_address(text) for text in await resolver(host, port)]
    except TimeoutError:
        raise
    except (OSError, UnicodeError):
        raise NameNotResolved from None
