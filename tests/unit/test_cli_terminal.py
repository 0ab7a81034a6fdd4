"""``junctor chat`` at a terminal: a pseudo-terminal on this side, a scripted server on the other."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

SECONDS = 90.0
"""Bound of every wait; only ends one that hangs."""
PROGRAM = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # standard input becomes the controlling terminal: Ctrl-C is a signal
from junctor.cli import main
main()
"""
SERVED = {"m": b'{"id":"default/m","object":"model","owned_by":"default"}'}

ABSENT = b'{"detail":"No VirtualModel was found","error":{"message":"Gone","code":"model_not_found"}}'


@dataclass
class Upstream:
    """Answers once it is told to ``begin``; says ``Hel`` and waits, until ``go_on``: then answers come as a whole."""

    url: str = ""
    begin: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    hung_up: threading.Event = field(default_factory=threading.Event)
    asked: list[bytes] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """The edge, as far as ``chat`` needs it."""

    upstream: Upstream

    def do_GET(self) -> None:
        found = SERVED.get(self.path.rpartition("/")[2])
        self._head(200 if found else 404, "application/json")
        self.wfile.write(found or ABSENT)

    def do_POST(self) -> None:
        self.upstream.asked.append(self.rfile.read(int(self.headers["content-length"])))
        assert self.upstream.begin.wait(SECONDS)
        self._head(200, "text/event-stream", {"x-junctor-provider": "default/up"})
        self._say("Hel")
        if not self.upstream.go_on.is_set():
            self.connection.recv(1)  # nothing more to read than that it was closed
            self.upstream.hung_up.set()
            return
        self._say("lo 🙂 日本")
        usage = b'"usage":{"prompt_tokens":5,"completion_tokens":7}'
        self.wfile.write(b'data: {"choices":[],"model":"default/m",%s}\n\ndata: [DONE]\n\n' % usage)

    def _head(self, status: int, kind: str, extra: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-type": kind, "connection": "close", **(extra or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True

    def _say(self, text: str) -> None:
        self.wfile.write(b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % text.encode())
        self.wfile.flush()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    scripted = Upstream()
    scripted.begin.set()
    handler = type("Scripted", (Handler,), {"upstream": scripted})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        scripted.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield scripted
        server.shutdown()
        thread.join()


class Terminal:
    """A process whose terminal this is."""

    def __init__(self, descriptor: int, process: subprocess.Popen[bytes]) -> None:
        self._descriptor = descriptor
        self.process = process
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def until(self, text: str) -> str:
        """Read until the screen has ``text``; returns what came since the last call."""
        came = b""
        while text not in came.decode(errors="ignore"):
            ready, _, _ = select.select([self._descriptor], [], [], SECONDS)
            assert ready, f"no {text!r} in {came!r}"
            try:
                block = os.read(self._descriptor, 4096)
            except OSError:  # Linux's end of file of a terminal
                block = b""
            assert block, f"no {text!r} in {came!r}"
            came += block
        return came.decode()


@contextmanager
def junctor(*arguments: str, **environment: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("JUNCTOR_")}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=clean | {"TERM": "xterm", "JUNCTOR_CONFIG_FILE": os.devnull, "PYTHONIOENCODING": "utf-8"} | environment,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield Terminal(ours, process)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_ctrl_c_stops_the_answer_and_the_provider_but_not_the_conversation(upstream: Upstream) -> None:
    with junctor("chat", "m", "--base-url", upstream.url) as terminal:
        assert "/exit leaves" in terminal.until("› ")
        terminal.type("one\r")
        terminal.until("Hel")
        terminal.type("\x03")
        assert "stopped" in terminal.until("› ")
        assert upstream.hung_up.wait(SECONDS)
        upstream.go_on.set()
        terminal.type("zwei 🙂\r")
        told = terminal.until("› ")
        assert "Hello 🙂 日本" in told
        assert "default/m at default/up · 5 tokens in, 7 out · " in told
        assert '"content":"zwei 🙂"'.encode() in upstream.asked[1]
        assert b'"role":"assistant","content":"Hel"' in upstream.asked[1]
        terminal.type("\x03")
        assert "/exit leaves" in terminal.until("› ")
        terminal.type("\x04")
        assert terminal.until("\n") == "\r\n"
        assert terminal.process.wait(SECONDS) == 0


def test_a_conversation_with_a_name_that_leads_nowhere_does_not_begin(upstream: Upstream) -> None:
    with junctor("chat", "n", "--base-url", upstream.url) as terminal:
        told = terminal.until("inference models list")
        assert "junctor: No VirtualModel was found; see what" in told
        assert terminal.process.wait(SECONDS) == 1
    assert not upstream.asked


@pytest.mark.parametrize(("variables", "dim"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colour_is_for_terminals_that_want_it(upstream: Upstream, variables: dict[str, str], dim: bool) -> None:
    upstream.go_on.set()
    with junctor("chat", "m", "Hi", "--base-url", upstream.url, **variables) as terminal:
        assert ("\x1b[2m" in terminal.until(" out · ")) is dim


def test_a_wait_of_more_than_a_second_is_said_and_taken_back(upstream: Upstream) -> None:
    upstream.begin.clear()
    upstream.go_on.set()
    with junctor("chat", "m", "Hi", "--base-url", upstream.url) as terminal:
        line = f"waiting for {upstream.url} …"
        assert terminal.until(line) == line
        upstream.begin.set()
        assert terminal.until("Hel").startswith("\r" + " " * len(line) + "\rHel")
