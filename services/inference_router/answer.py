"""Takes one provider's answer and puts it into the sink: what is rewritten, what is held, when it is committed.

Nothing reaches the sink before the first body byte is fit to be sent; until then the attempt can be given up for
another provider. From then on it is the answer, and ends with a truthful verdict.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from time import perf_counter
from typing import Protocol

from junctor.errors import UpstreamInvalid
from services.inference_router.decoding import DECODABLE, Decoder, decode_at_most
from services.inference_router.headers import field_of, response_headers
from services.inference_router.limits_told import FIELDS
from services.inference_router.pings import PING, Pinger
from services.inference_router.rewrite import WHOLE_LIMIT, JsonModelRewriter
from services.inference_router.sse import SseRewriter
from services.inference_router.usage import read_usage
from services.runtime.exchange import Head, Headers, Outcome, Sink, Source, Usage

ERROR_BODY_LIMIT = 64 * 1024
"""Bytes of a provider's error that are kept; what follows is not read."""
ERROR_BODY_SECONDS = 5.0
"""How long a provider may take for the body of an error: its status has said all that decides."""
DONE_SECONDS = 1.0
"""How long a provider may leave a stream open after its last event before it is ended for it."""

# Not application/x-ndjson, stream+json and the like: those are streams, and must not be held.
_JSON = re.compile(rb"\s*(?:application|text)/(?:(?!stream\+)[^;\s]*\+)?json\s*(?:;|$)", re.I).match
_BODYLESS = frozenset({204, 304})


class Transfer(Source, Protocol):
    """The running transfer of an answer."""

    def abort(self) -> None:
        """Want no more of it."""

    @property
    def received(self) -> int:
        """Bytes that came of the answer, its head included."""


class Answer:
    """One attempt's answer; the receiver of an upstream exchange."""

    __slots__ = (
        "_decoder", "_ending", "_head", "_parts", "_pinger", "_rewriter", "_served", "_shown", "_sink", "_size",
        "_timer", "_transfer", "_waiter", "attempts", "began", "committed", "complete", "error", "first_byte_at",
        "headers", "on_complete", "ping_seconds", "provider", "refused", "status", "streams", "told",
    )  # fmt: skip

    def __init__(self, sink: Sink, *, provider: str, served: str, shown: str, attempts: int) -> None:
        """``served`` is the upstream's id of the model and ``shown`` what callers see; empty: rewrite nothing."""
        self._sink = sink
        self.provider = provider
        self._served = served
        self._shown = shown
        self._head: Head | None = None
        self._transfer: Transfer | None = None
        self._rewriter: JsonModelRewriter | SseRewriter | _JsonWatcher | None = None
        self._decoder: Decoder | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pinger: Pinger | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._ending = False
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
        self.error: Exception | None = None
        """What was raised while nobody waited for the socket; :meth:`settled` raises it."""
        self.ping_seconds: float | None = None
        """After how long a silence an event stream gets a comment; None: never."""
        self.began = 0.0
        """When the call's time at providers began, as :func:`time.perf_counter` has it, gaps left out."""
        self.first_byte_at = 0.0
        """When the first byte of the body was passed on, by the same clock; 0: not yet. With pings known at the end."""
        self.streams = False
        """It is an event stream."""
        self.told: Headers | None = None
        """Fields of limits that the head gets; the provider's own of its limits are left out then."""
        self.on_complete: Callable[[], Outcome] | None = None
        """Makes the outcome that the sink is ended with, in the same callback as the last byte."""

    # -- the receiver of an exchange

    def on_head(self, status: int, headers: Headers, length: int | None, transfer: Transfer) -> None:
        """Decide by status and fields what becomes of the body."""
        self.status = status
        self.headers = headers
        self._transfer = transfer
        if status >= 400:
            self._timer = asyncio.get_running_loop().call_later(ERROR_BODY_SECONDS, self._enough)
        elif status >= 300 and status != 304:
            self._refuse(f"Backend returned {status}: redirects are not followed")
        else:
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
        if self.status >= 400 or self.refused is not None:
            self.complete = True
        elif self._decoder is not None:
            self._ending = True
            self._decoder.finish()
        else:
            self._finish()

    # -- for the router

    async def settled(self) -> None:
        """Wait until a paused sink has taken what is still compressed. Raises what went wrong meanwhile."""
        if self._ending and not self.complete and self.error is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        error, self.error = self.error, None
        if error is not None:
            raise error

    def complete_early(self) -> bool:
        """End an answer whose last event was sent, whatever became of its connection; False: it was not."""
        rewriter = self._rewriter
        if self.complete or not self.committed or type(rewriter) is not SseRewriter or not rewriter.done_seen:
            return False
        self._finish()
        return True

    def deliver_error(self, attempts: int) -> None:
        """Make the error that was kept the answer of a call with this many attempts."""
        body = b"".join(self._parts)
        headers = response_headers(self.headers)
        coding = _coding(self.headers)
        if coding:
            body = decode_at_most(body, coding, ERROR_BODY_LIMIT)
            headers = [(name, value) for name, value in headers if name != b"content-encoding"]
        self.attempts = attempts
        self._head = self._head_of(headers, len(body), stream=False)
        self._commit()
        if body:
            self._sink.data(body)
        self._end()

    def close(self) -> None:
        """Call when the attempt is over, however it ended: nothing reaches the sink any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._decoder is not None:
            self._decoder.close()
        if self._pinger is not None:
            self._pinger.stop()
            self.first_byte_at = self._pinger.first_byte_at

    def usage(self) -> Usage | None:
        """Return the tokens that the provider reported, as far as they were seen."""
        return None if self._rewriter is None else self._rewriter.usage

    def size(self) -> int:
        """Return about how many bytes of the body came from the provider, as they were sent: maybe compressed."""
        if self._transfer is None:
            return 0
        return max(0, self._transfer.received - sum(len(name) + len(value) + 4 for name, value in self.headers) - 19)

    # -- within

    def _open(self, status: int, headers: Headers, length: int | None, transfer: Transfer) -> None:
        kind = field_of(headers, b"content-type")
        self.streams = stream = kind[:17].lower() == b"text/event-stream"
        coding = b"" if status in _BODYLESS or length == 0 else _coding(headers)
        reads = bool(self._shown)
        decoded = reads and bool(coding)
        if decoded:
            if coding not in DECODABLE:
                self._refuse("The provider's answer has a content coding that was not asked for.")
                return
            self._decoder = Decoder(transfer, self._take, on_end=self._finish, on_error=self._fail)
            coding, length = b"", None
        if stream and not coding:
            self._rewriter = SseRewriter(self._served, self._shown)
            length = None if reads else length
            if self.ping_seconds is not None and status not in _BODYLESS and length != 0:
                self._sink = self._pinger = Pinger(self._sink, self.ping_seconds, self._ping)
                length = None  # pings are not in the length that was announced
        elif not coding and (not kind or _JSON(kind)):
            self._rewriter = JsonModelRewriter(self._served, self._shown) if reads else _JsonWatcher()
        self._head = self._head_of(response_headers(headers, decoded=decoded), length, stream=stream and not coding)

    def _head_of(self, headers: Headers, length: int | None, *, stream: bool) -> Head:
        return Head(
            status=self.status,
            headers=headers,
            length=length,
            event_stream=stream,
            provider=self.provider,
            attempts=self.attempts,
            entity=self._shown,
            upstream_model=self._served,
        )

    def _take(self, data: bytes) -> None:
        rewriter = self._rewriter
        if rewriter is not None:
            data = rewriter.feed(data)
        if data:
            if not self.committed:
                self._commit(streaming=True)
            self._sink.data(data)
        if type(rewriter) is SseRewriter and rewriter.done_seen and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DONE_SECONDS, self._end_for_provider)

    def _finish(self) -> None:
        rest = b"" if self._rewriter is None else self._rewriter.finish()
        if not self.committed:
            if self._head is not None and isinstance(self._rewriter, JsonModelRewriter):
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
        self.first_byte_at = now = perf_counter()
        self._head.upstream_seconds = now - self.began
        if self.told:
            self._head.headers = [field for field in self._head.headers if field[0] not in FIELDS] + self.told
        self._sink.head(self._head, self._decoder or self._transfer)

    def _end(self) -> None:
        if self.on_complete is None:
            raise RuntimeError("an answer ends that nobody waits for")
        self.close()
        self.complete = True
        outcome = self.on_complete()
        self.on_complete = None  # whose method it is holds this answer: no cycle to be collected
        self._sink.end(outcome)
        self._wake()

    def _ping(self) -> None:
        """Break a silence; before the first event that makes this the answer."""
        if self.complete or self._ending or (type(self._rewriter) is SseRewriter and self._rewriter.done_seen):
            return
        try:
            if not self.committed:
                self._commit(streaming=True)
            self._sink.data(PING)
        except Exception as error:  # noqa: BLE001 - settled() raises it, a timer has nobody to tell
            self._fail(error)

    def _end_for_provider(self) -> None:
        """The last event was sent, but the provider keeps the body open: the answer is complete all the same."""
        try:
            self.complete_early()
        except Exception as error:  # noqa: BLE001 - settled() raises it, a timer has nobody to tell
            self.error = error
        self._stop()

    def _fail(self, error: Exception) -> None:
        """Take an error that was raised outside of the socket's callback."""
        self.error = error
        self._stop()

    def _stop(self) -> None:
        if self._transfer is not None:
            self._transfer.abort()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _keep(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size >= ERROR_BODY_LIMIT:
            self._enough()

    def _enough(self) -> None:
        """Read no more of an error."""
        self.complete = True
        self._stop()

    def _refuse(self, text: str) -> None:
        self.refused = UpstreamInvalid(text, domain=f"provider/{self.provider}")
        self.complete = True
        self._stop()


class _JsonWatcher:
    """Passes a JSON answer as it is and keeps a copy, up to 1 MiB, to read its usage from."""

    __slots__ = ("_kept", "_size")

    def __init__(self) -> None:
        self._kept: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> bytes:
        """Take note of bytes; return them."""
        self._size += len(data)
        if self._size <= WHOLE_LIMIT:
            self._kept.append(data)
        else:
            self._kept.clear()
        return data

    def finish(self) -> bytes:
        """Return nothing: all has passed."""
        return b""

    @property
    def usage(self) -> Usage | None:
        """What the provider reported, unless the answer was too large to be kept."""
        return read_usage(b"".join(self._kept)) if self._size <= WHOLE_LIMIT else None


def _coding(headers: Headers) -> bytes:
    coding = field_of(headers, b"content-encoding").strip().lower()
    return b"" if coding == b"identity" else coding
