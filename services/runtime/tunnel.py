"""What is said to a proxy to get a tunnel (CONNECT, RFC 9110 §9.3.6), and what its answer means. No I/O."""

from __future__ import annotations

import re

from services.runtime.egress import Proxy

HEAD_LIMIT = 16 * 1024
"""Bytes that a proxy may answer with."""

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r?\n")
_HEAD_END = re.compile(rb"\r?\n\r?\n")


class ProxyFailed(Exception):
    """The proxy gives no tunnel; the text, to go behind ``The proxy`` or ``its proxy``, says why and names nothing."""


def connect_request(proxy: Proxy, host: str, port: int) -> bytes:
    """Write the request for a tunnel to ``host`` and ``port``."""
    name = host if host.isascii() else host.encode("idna").decode("ascii")
    authority = b"%b:%d" % ((f"[{name}]" if ":" in name else name).encode("ascii"), port)
    lines = [b"CONNECT %b HTTP/1.1" % authority, b"host: %b" % authority]
    if proxy.authorization:
        lines.append(b"proxy-authorization: %b" % proxy.authorization)
    return b"\r\n".join((*lines, b"", b""))


class ConnectAnswer:
    """Reads the answer as its bytes come."""

    __slots__ = ("_got",)

    def __init__(self) -> None:
        self._got = b""

    def feed(self, data: bytes) -> bool:
        """Take bytes; return whether the tunnel stands. Raises ProxyFailed."""
        self._got += data
        # Judged as early as possible, so that garbage without a line end is not waited for.
        if not b"HTTP/1.".startswith(self._got[:7]):
            raise ProxyFailed("does not speak HTTP.")
        while (end := _HEAD_END.search(self._got)) is not None:
            status = self._status()
            rest = self._got[end.end() :]
            if status < 200:  # interim answers come before the one that counts
                self._got = rest
                continue
            if status >= 300:
                raise ProxyFailed(refusal(status))
            if rest:
                raise ProxyFailed("sent something before it was asked.")
            return True
        if len(self._got) > HEAD_LIMIT:
            raise ProxyFailed("does not speak HTTP.")
        return False

    def _status(self) -> int:
        line = _STATUS_LINE.match(self._got)
        if line is None:
            raise ProxyFailed("does not speak HTTP.")
        return int(line[1])


def refusal(status: int) -> str:
    """Say what a proxy's refusal means."""
    if status == 407:
        return "demands other credentials (407)."
    if status in (502, 503, 504):
        return f"cannot reach the provider ({status})."
    return f"refused the connection to the provider ({status})."
