"""Answers as they come: JSON chunks, named events or plain bytes, sync and async.

A stream is used once, inside the ``with`` that made it; leaving that block, or :meth:`close`, stops the model too.
Iterating ends at the end of the answer and raises StreamBroken when the answer broke off.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import httpx

from junctor import http_errors
from junctor.errors import JunctorError
from junctor.sse import Decoder, ServerEvent

DONE = "[DONE]"


class _Shared:
    """What needs no waiting."""

    def __init__(self, response: httpx.Response, where: str) -> None:
        self._response = response
        self._where = where

    @property
    def status(self) -> int:
        """HTTP status."""
        return self._response.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of the answer, by lower-case name."""
        return self._response.headers

    @property
    def request_id(self) -> str:
        """The id under which the server knows the call."""
        return self.headers.get("x-request-id") or self._response.request.headers["x-request-id"]

    @property
    def is_events(self) -> bool:
        """Whether the answer is a stream of events; one that is not comes as a single chunk."""
        return self.headers.get("content-type", "").startswith("text/event-stream")

    def _broken(self) -> JunctorError:
        return http_errors.broken(self._where, self.request_id)

    def _chunk(self, event: ServerEvent) -> Any:
        """Decode an event's data; None for the end mark. Raises StreamBroken for an event that tells a failure."""
        if event.data == DONE:
            return None
        try:
            content = json.loads(event.data)
        except (ValueError, RecursionError):
            content = event.data
        if event.name == "error" or (isinstance(content, dict) and content.get("error")):
            raise http_errors.from_event(content, self.request_id)
        return content


class Stream(_Shared):
    """An answer that is coming. Iterating gives the decoded JSON of each event."""

    def __iter__(self) -> Iterator[Any]:
        if not self.is_events:
            yield _whole(b"".join(self.iter_bytes()))
            return
        for event in self.events():
            if (content := self._chunk(event)) is not None:
                yield content

    def events(self) -> Iterator[ServerEvent]:
        """Iterate over the events as they are, end mark included."""
        decoder = Decoder()
        for block in self.iter_bytes():
            yield from decoder.feed(block)
        yield from decoder.end()

    def iter_bytes(self) -> Iterator[bytes]:
        """Iterate over the bytes as they come."""
        try:
            yield from self._response.iter_bytes()
        except httpx.TransportError as error:
            raise self._broken() from error

    def close(self) -> None:
        """Stop the answer."""
        self._response.close()


class AsyncStream(_Shared):
    """The async twin of :class:`Stream`."""

    async def __aiter__(self) -> AsyncIterator[Any]:
        if not self.is_events:
            yield _whole(b"".join([block async for block in self.iter_bytes()]))
            return
        async for event in self.events():
            if (content := self._chunk(event)) is not None:
                yield content

    async def events(self) -> AsyncIterator[ServerEvent]:
        """Iterate over the events as they are, end mark included."""
        decoder = Decoder()
        async for block in self.iter_bytes():
            for event in decoder.feed(block):
                yield event
        for event in decoder.end():
            yield event

    async def iter_bytes(self) -> AsyncIterator[bytes]:
        """Iterate over the bytes as they come."""
        try:
            async for block in self._response.aiter_bytes():
                yield block
        except httpx.TransportError as error:
            raise self._broken() from error

    async def close(self) -> None:
        """Stop the answer."""
        await self._response.aclose()


def _whole(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return body
