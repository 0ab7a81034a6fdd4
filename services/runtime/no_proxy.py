"""The rules of ``NO_PROXY``: which hosts are reached directly. Pure; nothing is looked up.

As curl and Go's net/http read it: entries divided by commas or spaces; ``*`` is every host; a name means itself and
the names below it, with or without ``.`` or ``*.`` in front; an address means itself, a CIDR block the addresses in
it (hosts that are written as addresses only); ``:port`` behind an entry limits it to that port.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network

from services.runtime.addresses import Address, literal_address, unwrap

_DIVIDERS = re.compile(r"[,\s]+")
_WITH_PORT = re.compile(r"(\[[^\]]*\]|[^:]*):(\d{1,5})")


@dataclass(frozen=True)
class NoProxy:
    """A parsed list; :meth:`matches` asks it. The text is kept as it was given."""

    text: str = ""

    def __str__(self) -> str:
        return self.text

    def matches(self, host: str, port: int) -> bool:
        """Tell whether ``host``, a name or an address without brackets, is to be reached directly at ``port``."""
        address = literal_address(host)
        name = host.lower().rstrip(".")
        return any(entry.matches(name, address, port) for entry in self._entries)

    @cached_property
    def _entries(self) -> tuple[_Entry, ...]:
        return tuple(_entry(word) for word in _DIVIDERS.split(self.text.lower()) if word)


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    network: IPv4Network | IPv6Network | None
    port: int | None

    def matches(self, name: str, address: Address | None, port: int) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.name == "*":
            return True
        if self.network is not None:
            return address is not None and (address in self.network or unwrap(address) in self.network)
        return address is None and (name == self.name or name.endswith(f".{self.name}"))


def _entry(word: str) -> _Entry:
    port: int | None = None
    if (parts := _WITH_PORT.fullmatch(word)) is not None:
        word, port = parts[1], int(parts[2])
    word = word.removeprefix("[").removesuffix("]")
    if word == "*":
        return _Entry("*", None, port)
    name = word.removeprefix("*").lstrip(".").rstrip(".")
    return _Entry(name, _network(word), port)


def _network(word: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(word, strict=False)
    except ValueError:
        address = literal_address(word) if "/" not in word else None
        return ip_network(address) if address is not None else None
