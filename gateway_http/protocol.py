"""The HTTP protocol class that uvicorn serves with: inference routes are ours, all else is uvicorn's.

``data_received`` frames the byte stream itself, strictly and one request at a time. A request whose raw path
is an inference route becomes a :class:`Call` and one task; the bytes of any other go, already judged, to
uvicorn's parser and from there to the app. uvicorn does not promise to keep what this file leans on:
``tests/gateway_http/test_uvicorn_seam.py`` holds the list.
"""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway_http import cors, errors, paths
from gateway_http.body import ChunkedBody
from gateway_http.cycle import InferenceCycle, Shared
from gateway_http.http_sink import encode_answer
from gateway_http.known_heads import KnownHeads
from gateway_http.limits import Refused, RequestHead, Seen, judge_part, read_head
from gateway_http.options import EdgeOptions, describe, request_id_of
from gateway_http.proving import Proving
from gateway_http.watch import NEVER
from junctor.channel import REQUEST_ID
from junctor.errors import InternalError, JunctorError, NotReady, Overloaded, PeerUnavailable
from services.access.identity import Caller
from services.runtime.exchange import Call, Headers

_log = logging.getLogger(__name__)

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


_NOTHING, _HEAD, _BODY, _IDLE, _LINGER = range(5)
"""What a connection's deadline is for."""


class EdgeProtocol(HttpToolsProtocol):
    """One connection. Built by :func:`make_protocol`."""

    shared: Shared
    _parting = False

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.deadline = NEVER
        self.options = self.shared.options
        self.limits = self.options.limits
        self._wait = _NOTHING
        self._rest = bytearray()
        """Bytes that came but cannot be used yet: part of a head, or the next request."""
        self._searched = 0
        """How far ``_rest`` was looked through for the end of a head."""
        self._seen: Seen = {}
        self._known = KnownHeads()
        self._left = 0
        """Bytes of a body of known length still to come."""
        self._body_due = 0.0
        """When the body has to be there, going by what came of it so far."""
        self._chunks: ChunkedBody | None = None
        self._mine: InferenceCycle | None = None
        """The inference request being received or answered."""
        self._reading_body = False
        self._closing = False
        self._cors: Headers = []
        """What to add to the answer for pages of other origins."""
        self._proving = None if self.options.gate is None else Proving(self.options.gate, self._go_on)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin: the first header block is due."""
        super().connection_made(transport)
        self._set_wait(_HEAD, self.limits.head_seconds)
        self.shared.watch.add(self, self.loop)
        if len(self.connections) > self.limits.connections:
            self._turn_away()

    def _turn_away(self) -> None:
        """There are too many: say so, but keep no more than an eighth of them on for the sake of the answer."""
        if len(self.connections) > self.limits.connections + self.limits.connections // 8:
            self.transport.abort()
            return
        self._write(errors.to_response(Overloaded("Too many connections; try again")), keep_alive=False)
        self._linger()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: the task of its request is cancelled at once."""
        self.shared.watch.discard(self)
        self.deadline = NEVER
        self._closing = True
        self._rest.clear()
        if self._proving is not None:
            self._proving.cancel()
        cycle, self._mine = self._mine, None
        super().connection_lost(exc)
        if cycle is not None and cycle.task is not None:
            cycle.task.cancel()
            cycle.task.add_done_callback(self.tasks.discard)  # a task that had not begun never comes to its end

    def part(self) -> None:
        """Begin to drain: the next request is answered, and is the last one."""
        self._parting = True

    def shutdown(self) -> None:
        """Go on draining: the request under way is the last one, also one whose caller is being proven."""
        if self._proving is not None and self._proving.pending and not self._is_answering():
            self._parting = True
            return
        super().shutdown()
        self._closing = self._closing or self.transport.is_closing()

    def pause_writing(self) -> None:
        """The client reads slower than the provider sends."""
        super().pause_writing()
        if self._mine is not None:
            self._mine.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        if self._mine is not None:
            self._mine.resume()

    def overdue(self) -> None:
        """Close what waited too long; see :class:`Limits`."""
        wait, self._wait, self.deadline = self._wait, _NOTHING, NEVER
        if self.transport.is_closing():
            return
        if wait is _BODY and self.flow.read_paused:
            self._begin_body()  # it is we who do not read
        elif wait is _BODY or (wait is _HEAD and self._rest):
            self._refuse(Refused(408, "The request did not arrive in time"))
        else:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Frame what came and hand it on."""
        if self._closing:
            return
        self._unset_keepalive_if_required()
        if self._rest:
            self._rest += data
            if self._is_busy():
                self._hold_back()
                return
            data = self._take_rest()
            if not data:
                return
        try:
            self._read(data)
        except Refused as refused:
            self._refuse(refused)

    def _read(self, data: bytes) -> None:
        position, end = 0, len(data)
        while position < end and not self._closing:
            if self._reading_body:
                position = self._read_body(data, position)
            elif self._is_busy():
                self._rest += memoryview(data)[position:]
                self._hold_back()
                return
            else:
                position = self._read_head(data, position)

    def _is_busy(self) -> bool:
        return self._is_answering() or (self._proving is not None and self._proving.pending)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _hold_back(self) -> None:
        if len(self._rest) > self.limits.pipelined:
            self.flow.pause_reading()

    def _take_rest(self) -> bytes:
        """Return the bytes kept if they may hold a whole head by now, else nothing (and judge them)."""
        found = self._rest.find(b"\r\n\r\n", max(0, self._searched - 3))
        if found < 0:
            self._judge_part()
            return b""
        data = bytes(self._rest)
        self._rest.clear()
        self._searched = 0
        return data

    def _judge_part(self) -> None:
        """Refuse an unfinished head as soon as it is over a limit or not HTTP."""
        self._cors = []
        try:
            judge_part(self._rest, self._searched, self.limits)
        except Refused as refused:
            self._refuse(refused)
        self._searched = len(self._rest)

    def _read_head(self, data: bytes, position: int) -> int:
        while data.startswith(b"\r\n", position):  # empty lines in front of a request are ignored (RFC 9112 §2.2)
            position += 2
        found = data.find(b"\r\n\r\n", position)
        if found < 0:
            if self._wait is not _HEAD:
                self._set_wait(_HEAD, self.limits.head_seconds)
            self._rest += memoryview(data)[position:]
            self._searched = 0
            self._judge_part()
            return len(data)
        self._clear_wait()
        return self._take_head(data, position, found)

    def _take_head(self, data: bytes, position: int, found: int) -> int:
        """Answer, refuse or begin the request whose header block ends at ``found``."""
        if self._cors:
            self._cors = []
        block = data[position:found]
        known = self._known.find(block)
        later = self._proving is not None
        head = read_head(block, self.limits, self._seen, host_later=later) if known is None else known[0]
        if self.options.cors is not None:
            self._cors = self.options.cors.fields(head.special)
            if (preflight := self.options.cors.preflight(head.method, head.special)) is not None:
                return self._answer_early(preflight, head, data, found + 4)
        caller = None
        try:
            if self._proving is not None and (caller := self._admit(head, data, position)) is None:
                return len(data)
            call = self._call_of(block, head) if known is None else known[1]
            if call is not None:
                self._describe(call, head, caller)
        except JunctorError as error:
            request_id = request_id_of(head.special, self.options)
            if self._proving is not None and caller is None:
                self._proving.told(head, error, request_id)
            return self._answer_early(errors.to_response(error), head, data, found + 4, request_id=request_id)
        if call is None:
            return self._begin_other(head, data, position, found + 4)
        return self._begin_mine(call, head, data, found + 4)

    def _admit(self, head: RequestHead, data: bytes, position: int) -> Caller | None:
        """Return who calls; None: the request was put back until that is known. Raises Unauthenticated, NotReady."""
        assert self._proving is not None
        caller = self._proving.admit(head)
        if caller is None:
            self._rest += memoryview(data)[position:]
            self._searched = 0
            self._hold_back()
        elif head.host_fault:
            raise Refused(400, head.host_fault)
        return caller

    def _describe(self, call: Call, head: RequestHead, caller: Caller | None) -> None:
        describe(call, head.special, self.options)
        if caller is not None and self.options.gate is not None:
            call.principal, call.assertion = caller, self.options.gate.assertion(caller)

    def _call_of(self, block: bytes, head: RequestHead) -> Call | None:
        path, _, query = head.target.partition(b"?")
        call = paths.match(head.method, path, self.options.default_workspace)
        if call is not None:
            call.query = query
            if head.method in paths.METHODS:
                self._known.keep(block, head, call)
        return call

    def _begin_mine(self, call: Call, head: RequestHead, data: bytes, position: int) -> int:
        if head.method not in paths.METHODS:
            allow = [(b"allow", paths.ALLOW)]
            response = errors.refusal(405, "Method Not Allowed", headers=allow)
            return self._answer_early(response, head, data, position)
        self._expect_body(head, self.limits.body, keep=True)
        call.headers = head.headers
        cycle = InferenceCycle(self, call, head, keep_alive=head.keep_alive and not self._parting)
        self._mine = self.cycle = cycle  # type: ignore[assignment]
        if head.length == 0:
            self._invoke(cycle)
        elif position >= len(data) and head.special.get(b"expect", b"").lower() == b"100-continue" and head.minor:
            self.transport.write(_CONTINUE)
        return position

    def _invoke(self, cycle: InferenceCycle) -> None:
        """The request is complete: start its task."""
        if self._chunks is not None:
            cycle.call.body = bytes(self._chunks.data)
        else:
            pieces = cycle.pieces
            cycle.call.body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        cycle.pieces = []
        cycle.more_body = False
        cycle.started = perf_counter()
        task = self.loop.create_task(self._serve(cycle))
        cycle.task = task
        self.tasks.add(task)  # and out of it in the task's own end: a callback would be one more turn of the loop

    async def _serve(self, cycle: InferenceCycle) -> None:
        REQUEST_ID.set(cycle.call.request_id)  # the task's own context: ends with it
        ends = self.shared.ends
        trace = ends.begin(cycle.call)
        try:
            await self.options.invoker.invoke(cycle.call, cycle)
            if not cycle.response_complete and not cycle.disconnected:
                cycle.fail(InternalError("The call ended without an answer"))
        except asyncio.CancelledError:
            if not cycle.disconnected and not cycle.response_complete:  # the server's drain limit, not the client
                cycle.fail(NotReady("The server is shutting down"))
            raise
        except JunctorError as error:
            if isinstance(error, PeerUnavailable):
                ends.unreached(cycle.call)
            cycle.fail(error)
        except Exception:  # noqa: BLE001 - one call's bug must not end the connection of others
            _log.exception("inference call failed", extra={"request_id": cycle.call.request_id})
            cycle.fail(InternalError("Internal error"))
        finally:
            self._forget(cycle)
            ends.end(cycle.call, trace, started=cycle.started, status=cycle.status, gone=cycle.disconnected)

    def _forget(self, cycle: InferenceCycle) -> None:
        task, cycle.task = cycle.task, None
        if task is not None:
            self.tasks.discard(task)

    def _begin_other(self, head: RequestHead, data: bytes, start: int, position: int) -> int:
        self._expect_body(head, self.limits.other_body, keep=False)
        block = data[start:position]
        if b"upgrade" in head.special or not block.startswith(head.method + b" /"):
            block = _plain_head(head)
        before = self.cycle
        super().data_received(block)
        if self._parting and self.cycle is not before:
            self.cycle.keep_alive = False
        if self._cors and self.cycle is not before:
            self.cycle.default_headers = [*self.cycle.default_headers, *self._cors]
        self._after_body_part()
        return position

    def send_400_response(self, msg: str) -> None:
        """Answer what uvicorn's parser refuses beyond our own rules (a method that it does not know) as all else."""
        self._refuse(Refused(400, msg))

    def on_response_complete(self) -> None:
        """uvicorn's cycle is answered; go on with what was read ahead."""
        super().on_response_complete()
        self._go_on()

    def _expect_body(self, head: RequestHead, limit: int, *, keep: bool) -> None:
        if head.length > limit:
            raise Refused(413, f"The body is larger than {limit} bytes")
        self._left = max(0, head.length)
        self._chunks = ChunkedBody(limit, keep=keep) if head.length < 0 else None
        self._reading_body = head.length != 0
        if self._reading_body:
            self._begin_body()

    def _begin_body(self) -> None:
        self._set_wait(_BODY, self.limits.body_seconds)
        self._body_due = self.deadline

    def _await_body(self, came: int) -> None:
        """The next bytes are due; those that came earn time for the whole of it."""
        self._set_wait(_BODY, self.limits.body_seconds)
        self._body_due += came / self.limits.body_rate
        self.deadline = min(self.deadline, self._body_due)

    def _read_body(self, data: bytes, position: int) -> int:
        mine = self._mine
        if self._chunks is not None:
            end = self._chunks.feed(data, position)
            self._reading_body = not self._chunks.done
        else:
            end = min(position + self._left, len(data))
            self._left -= end - position
            self._reading_body = self._left > 0
            if mine is not None:
                mine.pieces.append(data[position:end])
        if self._reading_body:
            self._await_body(end - position)
        else:
            self._clear_wait()
        if mine is None:
            super().data_received(data[position:end])
            self._after_body_part()
        elif not self._reading_body:
            self._invoke(mine)
        return end

    def _after_body_part(self) -> None:
        """The app may have answered before the body was in; then nothing else arms the keep-alive timer."""
        if self.transport.is_closing():
            self._closing = True
        elif not (self._closing or self._reading_body or self._is_busy()):
            self._set_wait(_IDLE, self.config.timeout_keep_alive)

    def common_fields(self) -> bytes:
        """Return date and server lines, as uvicorn is configured."""
        fields = self.shared.encode(self.server_state.default_headers)
        return fields + cors.lines(self._cors) if self._cors else fields

    def writing_paused(self) -> bool:
        """Tell whether the transport's buffer is full."""
        return self.flow.write_paused

    def answered(self) -> None:
        """An inference request is answered: close, go on, or wait for the next."""
        cycle, self._mine = self._mine, None
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if cycle is not None and not cycle.keep_alive:
            self._closing = True
            self.transport.close()
            return
        self._set_wait(_IDLE, self.config.timeout_keep_alive)
        self._go_on()

    def _go_on(self) -> None:
        if self._closing or self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self._rest:
            self.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if self._closing or self.transport.is_closing() or self._is_busy():
            return
        self._unset_keepalive_if_required()
        data = bytes(self._rest)
        self._rest.clear()
        try:
            self._read(data)
        except Refused as refused:
            self._refuse(refused)

    def _answer_early(
        self, response: errors.Response, head: RequestHead, data: bytes, position: int, *, request_id: str = ""
    ) -> int:
        """Answer a request that gets no further than its head; with a body behind it the connection ends."""
        keep_alive = head.keep_alive and head.length == 0 and not self._parting
        self._write(response, keep_alive=keep_alive, bodiless=head.method == b"HEAD", request_id=request_id)
        if not keep_alive:
            self._linger()
        else:
            self._set_wait(_IDLE, self.config.timeout_keep_alive)
        return position

    def _refuse(self, refused: Refused) -> None:
        """Answer bytes that are no request of ours, and close."""
        unanswered = True
        if self._is_answering():  # its body is what was refused; nothing that it still says may reach the wire
            unanswered = self._mine is not None or not self.cycle.response_started
            self.cycle.disconnected = self.cycle.response_complete = True
            self.cycle.message_event.set()
        self._mine = None
        if unanswered:
            self._write(errors.refusal(refused.status, refused.text), keep_alive=False)
        self._linger()

    def _write(
        self, response: errors.Response, *, keep_alive: bool, bodiless: bool = False, request_id: str = ""
    ) -> None:
        own = b"%bx-request-id: %b\r\nx-junctor-error-source: gateway\r\n%b" % (
            self.common_fields(),
            (request_id or self.options.request_id()).encode(),
            b"" if keep_alive else b"connection: close\r\n",
        )
        if not self.transport.is_closing():
            raw = encode_answer(response, own)
            self.transport.write(raw[: -len(response.body)] if bodiless else raw)

    def _linger(self) -> None:
        """Read and drop for a while, then close: a close on unread bytes is a reset that loses the answer."""
        self._closing = True
        self._rest.clear()
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._set_wait(_LINGER, self.limits.linger_seconds)

    def _set_wait(self, wait: int, seconds: float) -> None:
        self._wait = wait
        self.deadline = self.loop.time() + seconds

    def _clear_wait(self) -> None:
        self._wait = _NOTHING
        self.deadline = NEVER


def _plain_head(head: RequestHead) -> bytes:
    """Write the head anew: origin form, and no ``upgrade``, which would make the parser leave HTTP."""
    lines = [b"%b %b HTTP/1.%d\r\n" % (head.method, head.target, head.minor)]
    lines += [b"%b: %b\r\n" % field for field in head.headers if field[0] != b"upgrade"]
    return b"".join(lines) + b"\r\n"


def make_protocol(options: EdgeOptions) -> type[EdgeProtocol]:
    """Return the class for ``uvicorn.Config(app, http=…, ws="none", loop="uvloop")``; one per server."""
    return type("BoundEdgeProtocol", (EdgeProtocol,), {"shared": Shared(options)})
