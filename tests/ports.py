"""Ports for processes that must be told theirs: free, and nobody else's until they listen.

They lie outside of what the kernel gives to clients and to servers that ask for port 0, and each process of a test run
has a part of them for itself, so none is taken between being found and being listened on.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from functools import cache
from itertools import cycle

_FIRST, _PARTS, _EACH = 16_000, 8, 2_000
"""Linux gives clients 32768 and up, macOS 49152 and up."""


def free_port() -> int:
    """Return a port of loopback on which nobody listens, and another one each time."""
    return next(port for port in _ports() if _is_free(port))


@cache
def _ports() -> Iterator[int]:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    part = int(worker) % _PARTS if worker else random.randrange(_PARTS)
    first = _FIRST + part * _EACH
    begin = random.randrange(_EACH)  # another run may be under way on this machine
    return cycle(first + (begin + n) % _EACH for n in range(_EACH))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
