"""The client side of every Watch: follows one registry for ever, through restarts of either side.

A follower starts with a snapshot, resumes by token after a broken stream, and starts again when the registry no
longer knows the token. What it learned stays in force while the registry is away: not reachable is not a deletion.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from junctor.errors import JunctorError, WatchExpired
from junctor.status import from_rpc_error
from junctor.v1 import watch_pb2
from services.runtime.histograms import FIRST_TOKEN, Histogram

SILENCE_SECONDS = 15.0
"""A stream without even a heartbeat for this long is dead (heartbeats come every 5 s)."""
_FIRST_BACKOFF = 0.1
_LAST_BACKOFF = 2.0

_log = logging.getLogger(__name__)
M = TypeVar("M", bound=Message)


class Follows(Protocol[M]):
    """Who is told. Both methods run on the event loop and must not block."""

    def replace(self, resources: list[M]) -> None:
        """Take a whole snapshot: what is not in it does not exist."""

    def apply(self, resource: M, *, deleted: bool) -> None:
        """Take one change."""


class Event(Protocol):
    """What the event message of every Watch RPC has."""

    type: Any
    resource: Any
    revision: int
    resume_token: str


class Follower(Generic[M]):
    """Follows one kind of resource. ``run`` is one task for the life of the process."""

    def __init__(
        self, name: str, watch: Callable[..., Any], target: Follows[M], *, silence: float = SILENCE_SECONDS
    ) -> None:
        """``watch`` is the stub's Watch method, ``name`` what logs and health call it."""
        self.name = name
        self.revision = 0
        """Revision of the registry's store that has been taken in."""
        self.synced = asyncio.Event()
        """Set for good once a first snapshot was taken in."""
        self.connected = False
        self.last_heard: float | None = None
        """Loop time of the last event."""
        self.lag = Histogram(FIRST_TOKEN)
        """Seconds from a change's writing, by the registry's clock, to its being taken in, by ours."""
        self._watch = watch
        self._target = target
        self._silence = silence
        self._token = ""
        self._advanced = asyncio.Condition()

    @property
    def token(self) -> str:
        """Resumes after what has been taken in; empty: only a snapshot does."""
        return self._token

    def resume_from(self, token: str) -> None:
        """Have the next stream resume there: the state that goes with it came another way. Only before the first."""
        self._token = token

    async def run(self) -> None:
        """Follow until cancelled."""
        backoff = _FIRST_BACKOFF
        while True:
            heard = self.last_heard
            try:
                await self._follow_once()
            except WatchExpired:
                self._token = ""
            except (JunctorError, TimeoutError) as error:
                reason = error.reason if isinstance(error, JunctorError) else "SILENT"
                # A peer that drains says so; one that was never there is its own log's matter.
                level = logging.WARNING if self.connected and reason != "NOT_READY" else logging.DEBUG
                _log.log(level, "lost the watch of %s, will reconnect", self.name, extra={"reason": reason})
            except Exception:  # noqa: BLE001 - a follower that ended would serve an old state for ever
                _log.exception("could not take in what %s sent, will start again with a snapshot", self.name)
                self._token = ""
            self.connected = False
            backoff = _FIRST_BACKOFF if self.last_heard != heard else min(backoff * 2, _LAST_BACKOFF)
            await asyncio.sleep(backoff)

    async def reached(self, revision: int) -> None:
        """Return once ``revision`` has been taken in."""
        async with self._advanced:
            await self._advanced.wait_for(lambda: self.revision >= revision)

    async def _follow_once(self) -> None:
        call = self._watch(watch_pb2.WatchRequest(resume_token=self._token), wait_for_ready=False)
        snapshot: list[M] | None = None if self._token else []
        try:
            async for event in self._read(call):
                if not self.connected:
                    self.connected = True
                    _log.info("watching %s", self.name)
                snapshot = self._take(event, snapshot)
                await self._advance(event, snapshot)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        finally:
            call.cancel()

    async def _read(self, call: Any) -> AsyncIterator[Event]:
        events = aiter(call)
        while True:
            async with asyncio.timeout(self._silence):
                try:
                    event = await anext(events)
                except StopAsyncIteration:
                    return
            yield event

    def _take(self, event: Event, snapshot: list[M] | None) -> list[M] | None:
        if event.type == watch_pb2.WATCH_EVENT_TYPE_SYNCED:
            if snapshot is not None:
                self._target.replace(snapshot)
            self.synced.set()
            return None
        if event.type in (watch_pb2.WATCH_EVENT_TYPE_UPSERTED, watch_pb2.WATCH_EVENT_TYPE_DELETED):
            if snapshot is not None:
                snapshot.append(event.resource)
            else:
                deleted = event.type == watch_pb2.WATCH_EVENT_TYPE_DELETED
                self._target.apply(event.resource, deleted=deleted)
                written = None if deleted else getattr(event.resource, "updated_at", None)
                if written is not None:  # when something was deleted nobody wrote down
                    self.lag.observe(max(0.0, time.time() - written.ToMicroseconds() / 1e6))
        return snapshot

    async def _advance(self, event: Event, snapshot: list[M] | None) -> None:
        self.last_heard = asyncio.get_running_loop().time()
        if snapshot is not None:  # a token within a snapshot would skip the rest of it
            return
        self._token = event.resume_token
        if event.revision != self.revision:
            async with self._advanced:
                self.revision = event.revision
                self._advanced.notify_all()
