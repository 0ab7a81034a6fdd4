"""The gRPC service ``RouterPeers``: gives a copy of what this router serves from to routers that have nothing yet."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from junctor.errors import NotReady, Overloaded
from junctor.v1 import router_peers_pb2 as pb
from junctor.v1.router_peers_pb2_grpc import RouterPeersServicer
from services.runtime.state_parts import Part, StatePart, Version

PIECE_BYTES = 1024 * 1024
MOST_COPIES = 4
"""Copies that are given at a time: each is the whole catalog once more in memory."""
_RETRY_SECONDS = 1.0


class PeersServicer(RouterPeersServicer):
    """Reads the parts; changes nothing."""

    def __init__(self, parts: Sequence[StatePart], *, ready: Callable[[], bool]) -> None:
        """``ready`` tells whether this router has all that it needs itself."""
        self.instance = uuid.uuid4().hex
        """Names this process; whoever asks itself knows it by this."""
        self._parts = parts
        self._ready = ready
        self._giving = 0

    async def CopyState(self, request: pb.CopyStateRequest, context: Any) -> AsyncIterator[pb.CopyStateResponse]:
        """Give the parts that the caller has not, or not as new."""
        yield pb.CopyStateResponse(instance=self.instance)
        if request.instance == self.instance:
            return
        if not self._ready():
            raise NotReady("This router has no catalog yet.", retry_after=_RETRY_SECONDS)
        if self._giving >= MOST_COPIES:
            raise Overloaded("This router gives its catalog to others just now.", retry_after=_RETRY_SECONDS)
        held = {each.name: version_from(each.version) for each in request.held}
        self._giving += 1
        try:
            for part in self._parts:
                version = part.version()
                if version is None or (part.name in held and not version.newer_than(held[part.name])):
                    continue
                for piece in _pieces(await part.give()):
                    yield pb.CopyStateResponse(part=piece)
        finally:
            self._giving -= 1


def _pieces(part: Part) -> Iterator[pb.StatePart]:
    for start in range(0, max(len(part.data), 1), PIECE_BYTES):
        end = start + PIECE_BYTES
        first = version_to(part.version) if not start else None
        data, last = part.data[start:end], end >= len(part.data)
        yield pb.StatePart(name=part.name, version=first, data=data, last=last)


def version_to(version: Version) -> pb.StateVersion:
    """Write how new a part is."""
    as_of = Timestamp()
    as_of.FromMicroseconds(round(version.as_of * 1e6))
    return pb.StateVersion(epoch=version.epoch, revision=version.revision, as_of=as_of)


def version_from(message: pb.StateVersion) -> Version:
    """Read how new a part is."""
    return Version(message.epoch, message.revision, message.as_of.seconds + message.as_of.nanos / 1e9)
