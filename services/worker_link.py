"""What a supervisor and its workers say to each other: JSON objects, one a line, over a socket pair.

The end of the stream is a word as well: whoever sees it knows that the other process is gone.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from services.runtime.metrics import Family, Sample

LINE_LIMIT = 16 * 1024 * 1024
"""Bytes of one message; metrics are the longest."""


@dataclass(frozen=True, slots=True)
class Orders:
    """The first message: what a worker is to be."""

    services: tuple[str, ...]
    """As on the command line of its supervisor."""
    flags: dict[str, Any]
    grpc_port: int
    peer_port: int | None
    first: bool
    listener: int | None
    """File descriptor of the edge's listening socket."""
    relay_to: str


class Link:
    """One end. ``send`` never blocks; ``receive`` gives None when the other end is gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Link:
        """Make a link of one end of a socket pair."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=LINE_LIMIT))

    def send(self, **message: Any) -> None:
        """Send a message; it is lost if the other end is gone."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def receive(self) -> dict[str, Any] | None:
        """Return the next message."""
        try:
            line = await self._reader.readline()
            message: dict[str, Any] | None = json.loads(line) if line.endswith(b"\n") else None
        except (OSError, ValueError):
            return None
        return message

    async def close(self) -> None:
        """Close this end."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            pass  # the other end went first


def families_to(families: Iterable[Family]) -> list[Any]:
    """Write metrics as JSON."""
    return [
        [family.name, family.kind, family.help, [[s.value, dict(s.labels), s.suffix, s.upper] for s in family.samples]]
        for family in families
    ]


def families_from(message: list[Any]) -> list[Family]:
    """Read metrics."""
    return [
        Family(name, kind, text, tuple(Sample(*sample) for sample in samples)) for name, kind, text, samples in message
    ]


def merged(by_process: dict[str, list[Family]]) -> list[Family]:
    """Join the metrics of several processes: each sample says whose it is, in the label ``process``."""
    found: dict[str, Family] = {}
    for process, families in by_process.items():
        for family in families:
            named = tuple(Sample(s.value, {"process": process, **s.labels}, s.suffix, s.upper) for s in family.samples)
            before = found[family.name].samples if family.name in found else ()
            found[family.name] = Family(family.name, family.kind, family.help, (*before, *named))
    return list(found.values())
