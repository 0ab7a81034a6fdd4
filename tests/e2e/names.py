"""A name server whose answers a test changes: what a headless service's name is in Kubernetes."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ipaddress import IPv4Address

_A, _IN = 1, 1
_ANSWER, _NO_NAME = 0x8580, 0x8583
"""Flags of an authoritative answer: found, and no such name."""


class Names(asyncio.DatagramProtocol):
    """Answers over UDP with the addresses of :attr:`addresses`, all of them, for one second each."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {}
        """Name → IPv4 addresses."""
        self.asked = 0
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None

    def target(self, name: str, port: int) -> str:
        """The gRPC target of a name, looked up here."""
        return f"dns://127.0.0.1:{self.port}/{name}:{port}"

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        assert self._transport is not None
        self.asked += 1
        self._transport.sendto(_answer(data, self.addresses), address)


@asynccontextmanager
async def names() -> AsyncIterator[Names]:
    """A name server on a free port."""
    loop = asyncio.get_running_loop()
    transport, made = await loop.create_datagram_endpoint(Names, local_addr=("127.0.0.1", 0))
    try:
        yield made
    finally:
        transport.close()


def _answer(query: bytes, addresses: Mapping[str, list[str]]) -> bytes:
    """Write the answer to a query with one question (RFC 1035, 4.1)."""
    labels, at = [], 12
    while (size := query[at]) != 0:
        labels.append(query[at + 1 : at + 1 + size].decode("ascii").lower())
        at += 1 + size
    (kind,) = struct.unpack_from("!H", query, at + 1)
    question = query[12 : at + 5]
    known = addresses.get(".".join(labels))
    found = known if known and kind == _A else []
    flags = _ANSWER if known is not None else _NO_NAME
    records = [struct.pack("!HHHIH", 0xC00C, _A, _IN, 1, 4) + IPv4Address(each).packed for each in found]
    return query[:2] + struct.pack("!HHHHH", flags, 1, len(records), 0, 0) + question + b"".join(records)
