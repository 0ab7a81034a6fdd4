"""The edge's HTTPS listener: takes connections, lets each show within a bound of time and number that it speaks TLS.

A connection becomes one of the HTTP server's after its handshake, so what never ends one costs a place here and
nothing there. A full list drops its oldest: whoever is silent longest goes first. Plain HTTP is told so, unencrypted.
"""

from __future__ import annotations

import array
import asyncio
import errno
import fcntl
import json
import logging
import socket
import ssl
import termios
from collections.abc import Callable
from typing import Any, Final

from services.runtime.certificates import Kept, KeyPair

HANDSHAKE_SECONDS: Final = 10.0
"""How long a client has from its connection to the end of the handshake."""
GOODBYE_SECONDS: Final = 30.0
"""How long a connection that ends may take to bring its last bytes to the client, and the client to say goodbye."""
MOST_HANDSHAKES: Final = 512
"""At once, of connections that have not shown a whole request's worth of interest yet: some 30 KiB each."""
_ACCEPT_AT_ONCE: Final = 64
_REST_SECONDS: Final = 0.1
"""After the system refused a connection: out of file descriptors, most likely."""
_LINGER_SECONDS: Final = 1.0
_HANDSHAKE_RECORD: Final = 0x16
"""First byte of a TLS connection (RFC 8446 §5.1)."""

logger = logging.getLogger(__name__)

_TEXT = "This port speaks HTTPS: use https:// in the URL"
_BODY = json.dumps({"detail": _TEXT, "error": {"message": _TEXT, "type": "invalid_request_error"}}).encode()
_PLAIN_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
    b"x-junctor-error-source: gateway\r\nconnection: close\r\n\r\n%b" % (len(_BODY), _BODY)
)


def server_context(pair: Kept[KeyPair]) -> ssl.SSLContext:
    """Return a context for HTTPS: TLS 1.2 or 1.3, ALPN ``http/1.1``; its certificate follows the files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # a client could make us shake hands for ever on one connection
    context.set_alpn_protocols(["http/1.1"])
    pair.value.load_into(context)
    pair.follow(lambda value: value.load_into(context))
    return context


class TlsListener:
    """Takes the place of an ``asyncio.Server`` in front of protocols that ``make`` makes."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        make: Callable[[], asyncio.Protocol],
        *,
        handshake_seconds: float = HANDSHAKE_SECONDS,
        most_handshakes: int = MOST_HANDSHAKES,
    ) -> None:
        self._listener = listener
        self._context = context
        self._make = make
        self._seconds = handshake_seconds
        self._most = most_handshakes
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._shaking: dict[asyncio.Task[bool], socket.socket] = {}
        """In the order of their beginning."""
        self.sockets = (listener,)
        self._listen()

    @property
    def handshakes(self) -> int:
        """How many have not ended yet."""
        return len(self._shaking)

    def close(self) -> None:
        """Take no more connections; handshakes go on."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._listener)
            self._listener.close()

    async def wait_closed(self) -> None:
        """Cut the handshakes that have not ended."""
        for task in tuple(self._shaking):
            task.cancel()
        await asyncio.gather(*self._shaking, return_exceptions=True)

    def take(self, connected: socket.socket) -> None:
        """Begin with a connection that was accepted."""
        connected.setblocking(False)
        if len(self._shaking) >= self._most:
            next(iter(self._shaking)).cancel()
        task = self._loop.create_task(self._shake(connected))
        self._shaking[task] = connected
        task.add_done_callback(self._shaken)

    def _shaken(self, task: asyncio.Task[bool]) -> None:
        connected = self._shaking.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a handshake failed", exc_info=error)
        if task.cancelled() or task.exception() is not None or not task.result():
            connected.close()  # here, since a task that is cancelled before it began does nothing at all

    def _listen(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPT_AT_ONCE):
            try:
                connected, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                logger.warning("no connection can be taken: %s", errno.errorcode.get(error.errno or 0, "unknown"))
                self._loop.remove_reader(self._listener)
                self._loop.call_later(_REST_SECONDS, self._listen)
                return
            self.take(connected)

    async def _shake(self, connected: socket.socket) -> bool:
        """Return whether the connection is the HTTP server's now."""
        try:
            async with asyncio.timeout(self._seconds):
                first = await self._first_byte(connected)
                if first == _HANDSHAKE_RECORD:
                    await self._encrypt(connected)
                    return True
                if 65 <= first <= 90:  # the first letter of a method
                    await self._answer_plainly(connected)
        except (OSError, TimeoutError):  # ssl.SSLError is an OSError
            pass  # a client that goes away, offers nothing that we take, or dislikes our certificate
        return False

    async def _first_byte(self, connected: socket.socket) -> int:
        """Look at the first byte without taking it; -1: the client is gone."""
        while True:
            try:
                return (connected.recv(1, socket.MSG_PEEK) or b"\xff")[0]
            except BlockingIOError:
                await self._readable(connected)

    async def _readable(self, connected: socket.socket) -> None:
        waiting: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(connected, _settle, waiting)
        try:
            await waiting
        finally:
            self._loop.remove_reader(connected)

    async def _encrypt(self, connected: socket.socket) -> None:
        await self._loop.connect_accepted_socket(
            self._make,
            connected,
            ssl=self._context,
            ssl_handshake_timeout=self._seconds,
            ssl_shutdown_timeout=GOODBYE_SECONDS,
        )

    async def _answer_plainly(self, connected: socket.socket) -> None:
        """Answer, then read on for a moment: a close on unread bytes is a reset that loses the answer."""
        connected.send(_PLAIN_ANSWER)
        connected.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(_LINGER_SECONDS):
            while await self._loop.sock_recv(connected, 65_536):
                pass


def has_everything(connected: Any) -> bool:
    """Tell whether the client's side has acknowledged all that was sent; ``connected`` is a socket or a view of one."""
    waiting = array.array("i", [1])
    try:
        fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, waiting)
    except (OSError, ValueError):
        return False
    return waiting[0] == 0


def _settle(waiting: asyncio.Future[Any]) -> None:
    if not waiting.done():
        waiting.set_result(None)
