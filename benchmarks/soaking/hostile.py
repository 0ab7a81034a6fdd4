"""Bodies of 64 MB that are dear to read, and how long another caller waits meanwhile."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator

from benchmarks.inference.targets import Target

_SIZE = 64 * 1024 * 1024 - 4096
_MODEL = b'{"model":"default/bench",'


def bodies(size: int = _SIZE) -> Iterator[tuple[str, bytes]]:
    """Make them one after the other: a name, a body of about ``size`` bytes."""

    def filled(unit: bytes, start: bytes = _MODEL + b'"a":[', end: bytes = b"0]}") -> bytes:
        return start + unit * ((size - len(start) - len(end)) // len(unit)) + end

    yield "one string", filled(b"x", _MODEL + b'"a":"', b'"}')
    yield "a string of escapes", filled(b"\\u0041", _MODEL + b'"a":"', b'"}')
    yield "a string of quotes", filled(b'\\"', _MODEL + b'"a":"', b'"}')
    yield "a string of brackets", filled(b"[{", _MODEL + b'"a":"', b'"}')
    yield "a string of two-byte characters", filled("é".encode(), _MODEL + b'"a":"', b'"}')
    yield "a string cut in a character", filled("é".encode(), _MODEL + b'"a":"', b'\xc3"}')
    yield "a string that never ends", filled(b"x", _MODEL + b'"a":"', b"")
    yield "many small numbers", filled(b"0,")
    yield "many short strings", filled(b'"",')
    yield "many empty arrays", filled(b"[],")
    yield "many empty objects", filled(b"{},")
    yield "many small objects", filled(b'{"a":1},')
    yield "many members", filled(b'"k":0,', _MODEL, b'"z":0}')
    yield "many long members", filled(b'"k%b":0,' % (b"k" * 150), _MODEL, b'"z":0}')
    yield "many models", filled(b'"model":"m",', b"{", b'"model":"default/bench"}')
    yield "deep arrays", filled(b"[")
    yield "deep objects", filled(b'{"a":')
    yield "one long number", filled(b"9", _MODEL + b'"a":', b"}")
    yield "numbers of 4,000 digits", filled(b"9" * 4000 + b",")
    yield "space", filled(b" ", b"", b'{"model":"default/bench"}')
    yield "no JSON", filled(b"\xff", b"", b"")


class Probe:
    """A caller that makes one small call after the other; ``longest`` is the longest wait in seconds."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.longest = 0.0
        self.failed = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._target.port, timeout=60)
        body = self._target.request()
        while not self._over.wait(0.005):
            began = time.perf_counter()
            connection.request("POST", self._target.path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            self.longest = max(self.longest, time.perf_counter() - began)
            self.failed += answer.status != 200
        connection.close()


def hostile(target: Target) -> list[str]:
    """Send each body and watch the probe; returns lines of a report."""
    lines = []
    for name, body in bodies():
        with Probe(target) as probe:
            time.sleep(0.1)
            began = time.perf_counter()
            status = _send(target, body)
            took = time.perf_counter() - began
        lines.append(f"| {name} | {status} | {took:.2f} | {probe.longest:.3f} | {probe.failed} |")
    return lines


def _send(target: Target, body: bytes) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=120)
    try:
        connection.request("POST", target.path, body, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (ConnectionError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
