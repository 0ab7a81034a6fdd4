"""Which addresses junctor may connect to: pure functions and one frozen policy, no look-ups.

Link-local, metadata, unspecified, multicast and reserved addresses are never allowed; public, private and
loopback ones by setting (``JUNCTOR_UPSTREAM_NETWORKS``). An IPv4 address in an IPv6 one is judged as IPv4.
Used twice: on what a user writes, and again on every address a name resolves to, right before connecting.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from junctor.errors import AddressRefused

Address = IPv4Address | IPv6Address


class Network(Enum):
    """What kind of place an address is."""

    PUBLIC = "public"
    PRIVATE = "private"
    LOOPBACK = "loopback"
    LINK_LOCAL = "link-local"
    METADATA = "cloud metadata"
    UNSPECIFIED = "unspecified"
    MULTICAST = "multicast"
    RESERVED = "reserved"


_CHOICES = {network.value: network for network in (Network.PUBLIC, Network.PRIVATE, Network.LOOPBACK)}

_METADATA = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Azure, GCP, Oracle and most others
        "169.254.170.2",  # AWS ECS task credentials
        "169.254.170.23",  # AWS EKS pod identity
        "fd00:ec2::254",
        "fd00:ec2::23",
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure wire server, a public address by number
        "192.0.0.192",  # Oracle, classic
        "fd00:c1::a9fe:a9fe",  # Oracle
        "fd20:ce::254",  # GCP
        "fd00:42::42",  # Scaleway
    )
)

_TABLE: tuple[tuple[str, Network], ...] = (
    # IANA special-purpose registries for IPv4 and IPv6; the first match decides.
    ("0.0.0.0/8", Network.UNSPECIFIED),
    ("127.0.0.0/8", Network.LOOPBACK),
    ("169.254.0.0/16", Network.LINK_LOCAL),
    ("10.0.0.0/8", Network.PRIVATE),
    ("172.16.0.0/12", Network.PRIVATE),
    ("192.168.0.0/16", Network.PRIVATE),
    ("100.64.0.0/10", Network.PRIVATE),
    ("198.18.0.0/15", Network.PRIVATE),
    ("192.0.0.0/24", Network.RESERVED),
    ("192.0.2.0/24", Network.RESERVED),
    ("192.88.99.0/24", Network.RESERVED),
    ("198.51.100.0/24", Network.RESERVED),
    ("203.0.113.0/24", Network.RESERVED),
    ("224.0.0.0/4", Network.MULTICAST),
    ("240.0.0.0/4", Network.RESERVED),
    ("0.0.0.0/0", Network.PUBLIC),
    ("::/128", Network.UNSPECIFIED),
    ("::1/128", Network.LOOPBACK),
    ("fe80::/10", Network.LINK_LOCAL),
    ("fc00::/7", Network.PRIVATE),
    ("ff00::/8", Network.MULTICAST),
    ("2001::/23", Network.RESERVED),  # Teredo, ORCHID, benchmarking
    ("2001:db8::/32", Network.RESERVED),
    ("3fff::/20", Network.RESERVED),
    ("2000::/3", Network.PUBLIC),
    ("::/0", Network.RESERVED),  # nothing else is handed out
)
_NETWORKS: tuple[tuple[IPv4Network | IPv6Network, Network], ...] = tuple(
    (ip_network(text), network) for text, network in _TABLE
)

_EMBEDS_IN_LAST_32_BITS = tuple(
    IPv6Network(text)
    for text in (
        "::ffff:0:0/96",  # IPv4-mapped
        "::ffff:0:0:0/96",  # IPv4-translated (RFC 2765)
        "64:ff9b::/96",  # NAT64 (RFC 6052)
        "64:ff9b:1::/48",  # NAT64, local use (RFC 8215)
        "::/96",  # IPv4-compatible (deprecated); :: and ::1 are taken out first
    )
)
_6TO4 = IPv6Network("2002::/16")
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")

_METADATA_NAMES = frozenset(
    (
        "metadata",
        "metadata.google.internal",
        "metadata.goog",
        "metadata.azure.internal",
        "metadata.azure.com",
        "metadata.tencentyun.com",
        "metadata.platformequinix.com",
        "instance-data",
        "instance-data.ec2.internal",
    )
)
_QUAD = re.compile(r"(?<!\d)(?=(\d{1,3})[-.](\d{1,3})[-.](\d{1,3})[-.](\d{1,3})(?!\d))")
_HEX_LABEL = re.compile(r"(?:0x)?[0-9a-f]{8}")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")


def unwrap(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for (mapped, NAT64, 6to4 …), or the address itself."""
    if isinstance(address, IPv4Address) or int(address) <= 1:
        return address
    if address in _6TO4:
        return IPv4Address(int(address) >> 80 & 0xFFFF_FFFF)
    if any(address in network for network in _EMBEDS_IN_LAST_32_BITS):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def classify(address: Address) -> Network:
    """Tell what kind of place an address is, after :func:`unwrap`."""
    inner = unwrap(address)
    if isinstance(inner, IPv6Address) and inner.scope_id is not None:
        inner = IPv6Address(int(inner))
    if any(near in _METADATA for near in (inner, *_shorter_prefixes(address))):
        return Network.METADATA
    for near in _shorter_prefixes(address):
        if (kind := classify(near)) in (Network.LINK_LOCAL, Network.LOOPBACK):
            return kind
    return next(kind for network, kind in _NETWORKS if inner.version == network.version and inner in network)


def _shorter_prefixes(address: Address) -> list[IPv4Address]:
    """Return what a local NAT64 address may stand for besides its last 32 bits: its network chooses the prefix.

    Of 48, 56 or 64 bits; octet 8 is no part of the IPv4 address then (RFC 6052, 2.2).
    """
    if isinstance(address, IPv4Address) or address not in _LOCAL_NAT64:
        return []
    bits, found = int(address), []
    for length in (48, 56, 64):
        after = bits & (1 << 128 - length) - 1  # all behind the prefix
        front = 64 - length  # bits of it in front of octet 8
        high = after >> 64
        low = (after & (1 << 56) - 1) >> 56 - (32 - front)
        found.append(IPv4Address(high << 32 - front | low))
    return found


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """The networks that providers may live in."""

    allowed: frozenset[Network]

    @classmethod
    def parse(cls, text: str) -> AddressPolicy:
        """Read a comma-separated choice of ``public``, ``private``, ``loopback``; else raise ValueError."""
        words = [word.strip().lower() for word in text.split(",") if word.strip()]
        unknown = [word for word in words if word not in _CHOICES]
        if unknown or not words:
            said = f"{unknown[0]!r} is not one of them" if unknown else "nothing was given"
            raise ValueError(f"networks are a comma-separated choice of public, private, loopback; {said}")
        return cls(frozenset(_CHOICES[word] for word in words))

    def check(self, address: Address) -> None:
        """Return if the address may be connected to, else raise AddressRefused, whose text has no address."""
        network = classify(address)
        if network in self.allowed:
            return
        if network.value in _CHOICES:
            raise AddressRefused(f"The provider's address is {network.value}, which this deployment does not allow.")
        raise AddressRefused(f"The provider's address is {network.value}; such addresses are never allowed.")


def literal_address(host: str) -> Address | None:
    """Return the address that ``host`` spells, in any way a resolver would take for one; None for a name.

    Beside the usual forms: brackets, a trailing dot, a zone, and all that ``inet_aton`` takes: one to four
    numbers, decimal, hex or octal. Digits and dots of other scripts are read as IDNA maps them.
    """
    text = _normal(host)
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    if ":" in text:
        try:
            return IPv6Address(text)
        except ValueError:
            return None
    return _inet_aton(text.removesuffix("."))


def is_metadata_name(host: str) -> bool:
    """Tell whether a name is a metadata service's, or carries a metadata or link-local address in its labels.

    Names of the second kind (``169.254.169.254.nip.io``, ``a9fea9fe.example``) resolve to what they carry.
    """
    name = _normal(host).rstrip(".")
    if name in _METADATA_NAMES or name.endswith(".metadata.google.internal"):
        return True
    return any(classify(address) in (Network.METADATA, Network.LINK_LOCAL) for address in _carried(name))


def _normal(host: str) -> str:
    # NFKC maps ``①`` to ``1`` and the full-width stop to a dot, as IDNA does; ideographic stops it leaves.
    return unicodedata.normalize("NFKC", host).translate({0x3002: ".", 0xFF61: "."}).strip().lower()


def _inet_aton(text: str) -> IPv4Address | None:
    parts = text.split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    try:
        *high, last = (_number(part) for part in parts)
    except ValueError:  # an octal number with an 8 or a 9 in it
        return None
    room = 4 - len(high)
    if any(part > 0xFF for part in high) or last >= 1 << 8 * room:
        return None
    value = last
    for index, part in enumerate(high):
        value |= part << 8 * (3 - index)
    return IPv4Address(value)


def _number(part: str) -> int:
    if part.startswith("0x"):
        return int(part[2:] or "0", 16)
    if len(part) > 16:  # more than any address needs; int() of long digit strings is slow
        return 1 << 64
    return int(part, 8) if part.startswith("0") else int(part)


def _carried(name: str) -> Iterator[Address]:
    for match in _QUAD.finditer(name):
        octets = [int(octet) for octet in match.groups()]
        if all(octet <= 255 for octet in octets):
            yield IPv4Address(bytes(octets))
    for label in name.split("."):
        if _HEX_LABEL.fullmatch(label):
            yield IPv4Address(int(label, 16))
        if label.isascii() and label.isdecimal() and 8 <= len(label) <= 10 and int(label) < 1 << 32:
            yield IPv4Address(int(label))
        if label.count("-") >= 2:
            try:
                yield IPv6Address(label.replace("-", ":"))
            except ValueError:
                continue
