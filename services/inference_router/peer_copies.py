"""Takes what a router serves from out of another router, so that a new one serves while every registry is down.

Asked are all addresses of all names, one after the other; a slow one holds nobody up, since the next is asked after a
moment. A copy is bounded in bytes and time, holds only until a registry speaks, and never takes the place of what is
as new. What breaks the protocol is passed by with a line in the log.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import NamedTuple

from junctor.channel import Peer
from junctor.errors import JunctorError, PermissionDenied, Unauthenticated
from junctor.v1 import router_peers_pb2 as pb
from junctor.v1.router_peers_pb2_grpc import RouterPeersStub
from services.inference_router.peers_servicer import version_from, version_to
from services.runtime.resolving import Resolver, system_resolver
from services.runtime.state_parts import Part, PartRefused, StatePart, Version

MOST_PEERS = 16
"""Addresses that are asked in a round, chosen at random."""
_CONNECT_SECONDS = 2.0
_RESOLVE_SECONDS = 5.0
_FIRST_PAUSE, _LAST_PAUSE = 0.25, 5.0

_log = logging.getLogger(__name__)


class PeerName(NamedTuple):
    """Where other routers are."""

    host: str
    """A name, whose addresses are all asked, or an address."""
    port: int

    @classmethod
    def of(cls, text: str) -> PeerName:
        """Read ``host:port``, an IPv6 address in brackets."""
        host, _, port = text.rpartition(":")
        return cls(host.strip("[]"), int(port))


Open = Callable[[str, str], Peer]
"""Opens a channel to a gRPC target; the second is the name that a certificate must have."""


@dataclass(frozen=True, slots=True)
class CopyLimits:
    """What one router's copy may take."""

    size: int = 128 * 1024 * 1024
    """Bytes: 1,000 providers with 10,000 models come to some 3 MB."""
    seconds: float = 30.0
    stagger: float = 1.0
    """Seconds after which the next router is asked as well."""


class PeerCopies:
    """Keeps asking until there is nothing left to ask for."""

    def __init__(
        self,
        peers: Sequence[PeerName],
        parts: Sequence[StatePart],
        *,
        instance: str,
        opened: Open,
        resolver: Resolver = system_resolver,
        limits: CopyLimits | None = None,
    ) -> None:
        """``instance`` is this router's own, by which it knows itself among the others."""
        self._peers = peers
        self._parts = {part.name: part for part in parts}
        self._instance = instance
        self._open = opened
        self._resolver = resolver
        self._limits = limits or CopyLimits()
        self.taken = asyncio.Event()
        """Set when something was taken."""

    async def run(self) -> None:
        """Return once another router was heard and every part is held, or its own source has spoken."""
        pause = _FIRST_PAUSE
        while any(part.wanted() for part in self._parts.values()):
            if await self._ask_all() and all(part.version() is not None for part in self._parts.values()):
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE)

    async def _ask_all(self) -> bool:
        """Ask every router once; tell whether one of them gave what it had."""
        asked: set[asyncio.Task[bool]] = set()
        heard = False
        try:
            for target, host in await self._targets():
                asked.add(asyncio.get_running_loop().create_task(self._ask(target, host)))
                stagger, first = self._limits.stagger, asyncio.FIRST_COMPLETED
                done, asked = await asyncio.wait(asked, timeout=stagger, return_when=first)
                heard |= any(task.result() for task in done)
            if asked:
                done, asked = await asyncio.wait(asked)
                heard |= any(task.result() for task in done)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return heard

    async def _targets(self) -> list[tuple[str, str]]:
        found: dict[str, str] = {}
        for host, port in self._peers:
            try:
                async with asyncio.timeout(_RESOLVE_SECONDS):
                    addresses = await self._resolver(host, port)
            except (OSError, UnicodeError, TimeoutError):
                _log.debug("other routers cannot be found", extra={"peer": host})
                continue
            for address in addresses:
                found[f"ipv6:[{address}]:{port}" if ":" in address else f"ipv4:{address}:{port}"] = host
        return random.sample(list(found.items()), min(len(found), MOST_PEERS))

    async def _ask(self, target: str, host: str) -> bool:
        peer = self._open(target, host)
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await self._copy(peer, target)
        except TimeoutError:
            _log.warning("another router did not give its catalog in time", extra={"peer": target})
        except JunctorError as error:
            refused = isinstance(error, Unauthenticated | PermissionDenied)  # that does not pass by itself
            level = logging.WARNING if refused else logging.DEBUG
            _log.log(level, "another router gave no catalog", extra={"peer": target, "reason": error.reason})
        except PartRefused as why:
            _log.warning("another router's catalog was not taken: %s", why, extra={"peer": target})
        except Exception:  # noqa: BLE001 - whatever one router sends, the next may have what is needed
            _log.exception("another router's catalog could not be taken", extra={"peer": target})
        finally:
            await peer.close()
        return False

    async def _copy(self, peer: Peer, target: str) -> bool:
        """Take what a router gives; False if it is this one."""
        held = [
            pb.HeldPart(name=part.name, version=version_to(version))
            for part in self._parts.values()
            if (version := part.version()) is not None
        ]
        request = pb.CopyStateRequest(instance=self._instance, held=held)
        stub = RouterPeersStub(peer.channel)
        answers = peer.stream(stub.CopyState, request, timeout=self._limits.seconds, wait=_CONNECT_SECONDS)
        async with aclosing(answers) as messages:  # type: ignore[type-var]
            first = await anext(messages, None)
            if first is None or not first.instance:
                raise PartRefused("it does not say who it is")
            if first.instance == self._instance:
                return False
            async for part in _parts(messages, self._limits.size):
                known = self._parts.get(part.name)
                if known is not None and await known.take(part):
                    _log.info("took %s from another router", part.name, extra={"peer": target, **_told(part.version)})
                    self.taken.set()
        return True


async def _parts(messages: AsyncIterator[pb.CopyStateResponse], most: int) -> AsyncIterator[Part]:
    """Join pieces. Raises PartRefused for what is out of order or too large."""
    name, version, total = "", Version("", 0, 0.0), 0
    data = bytearray()
    async for message in messages:
        piece = message.part
        if not piece.name or (name and piece.name != name):
            raise PartRefused("its pieces are out of order")
        if not name:
            name, version = piece.name, _version(piece.version)
        total += len(piece.data)
        if total > most:
            raise PartRefused(f"it is larger than {most} bytes")
        data += piece.data
        if piece.last:
            yield Part(name, version, bytes(data))
            name, data = "", bytearray()
    if name:
        raise PartRefused("it broke off")


def _version(message: pb.StateVersion) -> Version:
    found = version_from(message)
    if found.revision < 0:
        raise PartRefused("its revision is none")
    return replace(found, as_of=min(found.as_of, time.time()))  # nobody knows more than there was until now


def _told(version: Version) -> dict[str, object]:
    return {"revision": version.revision, "age_seconds": round(time.time() - version.as_of, 1)}
