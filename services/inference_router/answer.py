"""Takes one provider's answer and puts it into the sink: what is rewritten, what is held, when it is committed.

Nothing reaches the sink before the first body byte is fit to be sent; until then the attempt can be given up for
another provider. From then on it is the answer, and ends with a truthful verdict.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from junctor.errors import UpstreamInvalid
from services.inference_router.decoding import DECODABLE, BadCoding, Decoder, decode_at_most
from services.inference_router.headers import response_headers
from services.inference_router.rewrite import JsonModelRewriter
from services.inference_router.sse import SseRewriter
from services.inference_router.usage import read_usage
from services.runtime.exchange import Head, Headers, Outcome, Sink, Source, Usage

ERROR_BODY_LIMIT = 64 * 1024
"""Bytes of a provider's error that are kept; what follows is not read."""
DONE_SECONDS = 1.0
"""How long a provider may leave a stream open after its last event before it is ended for it."""


class Rewriter(Protocol):
    """What the rewriters of ``rewrite`` and ``sse`` have in common."""

    def feed(self, data: bytes) -> bytes:
        """Take bytes, return those that may be sent."""

    def finish(self) -> bytes:
        """Return what is left."""


class Transfer(Source, Protocol):
    """The running transfer of an answer."""

    def abort(self) -> None:
        """Want no more of it."""


class Answer:
    """One attempt's answer; the receiver of an upstream exchange."""

    __slots__ = (
        "_decoder", "_done_timer", "_head", "_parts", "_rewriter", "_served", "_shown", "_sink", "_size",
        "_transfer", "attempts", "committed", "complete", "headers", "on_complete", "provider", "refused", "status",
    )  # fmt: skip

    def __init__(self, sink: Sink, *, provider: str, served: str, shown: str, attempts: int) -> None:
        """``served`` is the upstream's id of the model and ``shown`` what callers see; empty: rewrite nothing."""
        self._sink = sink
        self.provider = provider
        self._served = served
        self._shown = shown
        self._head: Head | None = None
        self._transfer: Transfer | None = None
        self._rewriter: JsonModelRewriter | SseRewriter | None = None
        self._decoder: Decoder | None = None
        self._done_timer: asyncio.TimerHandle | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self.attempts = attempts
        self.status = 0
        """HTTP status of the answer; 0: none yet."""
        self.headers: Headers = []
        """The answer's own fields."""
        self.committed = False
        """The head was given to the sink: this is the answer."""
        self.complete = False
        """The answer has come to its end."""
        self.refused: UpstreamInvalid | None = None
        """Why the answer cannot be used, if it cannot."""
        self.on_complete: Callable[[], Outcome] | None = None
        """Makes the outcome that the sink is ended with, in the same callback as the last byte."""

    # -- the receiver of an exchange

    def on_head(self, status: int, headers: Headers, length: int | None, transfer: Transfer) -> None:
        """Decide by status and fields what becomes of the body."""
        self.status = status
        self.headers = headers
        self._transfer = transfer
        if 300 <= status < 400 and status != 304:
            self._refuse(f"Backend returned {status}: redirects are not followed")
        elif status < 400:
            self._open(status, headers, length, transfer)

    def on_data(self, data: bytes) -> None:
        """Take body bytes."""
        if self.status >= 400:
            self._keep(data)
        elif self._decoder is not None:
            self._decoder.feed(data)
        else:
            self._take(data)

    def on_end(self) -> None:
        """The body is complete. An error status waits: it may not be the answer."""
        self.complete = True
        if self.status >= 400 or self.refused is not None:
            return
        if self._decoder is not None:
            self._decoder.finish()
        else:
            self._finish()

    # -- for the router

    def deliver_error(self) -> None:
        """Make the error that was kept the answer."""
        body = b"".join(self._parts)
        headers = response_headers(self.headers)
        coding = _field(self.headers, b"content-encoding")
        if coding:
            body = decode_at_most(body, ERROR_BODY_LIMIT)
            headers = [(name, value) for name, value in headers if name != b"content-encoding"]
        self._head = Head(
            status=self.status,
            headers=headers,
            length=len(body),
            event_stream=False,
            provider=self.provider,
            attempts=self.attempts,
        )
        self._commit()
        if body:
            self._sink.data(body)
        self._end()

    def close(self) -> None:
        """Forget timers; call when the attempt is over, however it ended."""
        if self._done_timer is not None:
            self._done_timer.cancel()
            self._done_timer = None

    def usage(self) -> Usage | None:
        """Return the tokens that the provider reported, as far as they were seen."""
        if isinstance(self._rewriter, SseRewriter):
            return self._rewriter.usage
        if isinstance(self._rewriter, JsonModelRewriter) and self._rewriter.usage_source:
            return read_usage(self._rewriter.usage_source)
        return None

    # -- within

    def _open(self, status: int, headers: Headers, length: int | None, transfer: Transfer) -> None:
        kind = _field(headers, b"content-type")
        stream = kind[:17].lower() == b"text/event-stream"
        reads = bool(self._shown)
        decoded = False
        if reads and (coding := _field(headers, b"content-encoding").strip().lower()) not in (b"", b"identity"):
            if coding not in DECODABLE:
                self._refuse("The provider's answer has a content coding that was not asked for.")
                return
            self._decoder = Decoder(transfer, self._take, self._finish)
            decoded, length = True, None
        if reads and stream:
            self._rewriter, length = SseRewriter(self._served, self._shown), None
        elif reads and (b"json" in kind or not kind):
            self._rewriter = JsonModelRewriter(self._served, self._shown)
        self._head = Head(
            status=status,
            headers=response_headers(headers, decoded=decoded),
            length=length,
            event_stream=stream,
            provider=self.provider,
            attempts=self.attempts,
        )
        self._transfer = transfer
        self._parts = []

    def _take(self, data: bytes) -> None:
        rewriter = self._rewriter
        if rewriter is None:
            if not self.committed:
                self._commit()
            self._sink.data(data)
            return
        out = rewriter.feed(data)
        if out:
            if not self.committed:
                self._commit(streaming=True)
            self._sink.data(out)
        if type(rewriter) is SseRewriter and rewriter.done_seen and self._done_timer is None:
            self._done_timer = asyncio.get_running_loop().call_later(DONE_SECONDS, self._end_for_provider)

    def _finish(self) -> None:
        rest = b"" if self._rewriter is None else self._rewriter.finish()
        if not self.committed:
            if self._head is not None and self._rewriter is not None:
                self._head.length = len(rest)
            self._commit()
        if rest:
            self._sink.data(rest)
        self._end()

    def _commit(self, *, streaming: bool = False) -> None:
        if self._head is None or self._transfer is None:
            raise RuntimeError("an answer is committed before its head came")
        if streaming and isinstance(self._rewriter, JsonModelRewriter):
            self._head.length = None  # its model was rewritten: the length that was announced is not ours
        self.committed = True
        self._sink.head(self._head, self._decoder or self._transfer)

    def _end(self) -> None:
        if self.on_complete is None:
            raise RuntimeError("an answer ends that nobody waits for")
        self.close()
        self.complete = True
        self._sink.end(self.on_complete())

    def _end_for_provider(self) -> None:
        """The last event was sent, but the provider keeps the body open: the answer is complete all the same."""
        if self.complete or self._transfer is None:
            return
        self._finish()
        self._transfer.abort()

    def _keep(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size >= ERROR_BODY_LIMIT:
            self.complete = True
            if self._transfer is not None:
                self._transfer.abort()

    def _refuse(self, text: str) -> None:
        self.refused = UpstreamInvalid(text, domain=f"provider/{self.provider}")
        self.complete = True
        if self._transfer is not None:
            self._transfer.abort()


def _field(headers: Headers, name: bytes) -> bytes:
    for key, value in headers:
        if key == name:
            return value
    return b""


__all__ = ["Answer", "BadCoding"]
