"""A DNS server on UDP whose answers change from one question to the next, and a resolver that asks it."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, ip_address

_PATIENCE = 10.0
_A, _AAAA = 1, 28


class Rebinding(asyncio.DatagramProtocol):
    """Answers question after question with the next set of addresses, and goes on with the last. Its TTL is 0."""

    def __init__(self, answers: Sequence[Sequence[str]]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []
        self.port = 0

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        end = data.index(b"\0", 12) + 5
        self.asked.append(_name(data))
        given = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        records = b"".join(_record(address) for address in given)
        self._transport.sendto(
            data[:2] + struct.pack(">HHHHH", 0x8180, 1, len(given), 0, 0) + data[12:end] + records, addr
        )

    async def resolve(self, host: str, port: int) -> list[str]:
        """A resolver as ``services.runtime.resolving`` takes one. Raises OSError for a name without addresses."""
        loop = asyncio.get_running_loop()
        question = struct.pack(">HHHHHH", next(_IDS) & 0xFFFF, 0x0100, 1, 0, 0, 0)
        for label in host.rstrip(".").split("."):
            question += bytes([len(label)]) + label.encode("idna")
        question += b"\0" + struct.pack(">HH", _A, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.setblocking(False)
            asking.connect(("127.0.0.1", self.port))
            await loop.sock_sendall(asking, question)
            async with asyncio.timeout(_PATIENCE):
                answer = await loop.sock_recv(asking, 4096)
        found = _addresses(answer, len(question))
        if not found:
            raise OSError("no such name")
        return found


_IDS = itertools.count(1)


def _name(data: bytes) -> str:
    labels, at = [], 12
    while data[at]:
        labels.append(data[at + 1 : at + 1 + data[at]].decode())
        at += 1 + data[at]
    return ".".join(labels)


def _record(text: str) -> bytes:
    packed = ip_address(text).packed
    kind = _A if len(packed) == 4 else _AAAA
    return b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 0, len(packed)) + packed


def _addresses(answer: bytes, at: int) -> list[str]:
    found = []
    for _ in range(struct.unpack(">H", answer[6:8])[0]):
        (size,) = struct.unpack(">H", answer[at + 10 : at + 12])
        packed = answer[at + 12 : at + 12 + size]
        found.append(str(IPv4Address(packed)) if size == 4 else str(ip_address(packed)))
        at += 12 + size
    return found


@asynccontextmanager
async def dns(*answers: Sequence[str]) -> AsyncIterator[Rebinding]:
    """Run the server on a free loopback port."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: Rebinding(answers), local_addr=("127.0.0.1", 0))
    try:
        yield server
    finally:
        transport.close()
        await asyncio.sleep(0)
