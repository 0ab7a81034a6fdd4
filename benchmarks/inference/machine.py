"""What the kernel counted of a group of processes, and how fast the machine is while it counts.

A group is named by the processes that were started as leaders of a session: theirs are all processes in it, and all
that descend from these.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_REFERENCE = 26_000.0
"""Rounds of the probe in a CPU second of the machine that junctor's aims were set on."""


def speed(seconds: float = 0.1) -> float:
    """Tell how much a CPU second is worth now: system calls and interpreter, 1.0 where the aims were set.

    Neighbours on the same core make every process need more CPU time for the same work.
    """
    ours, theirs = socket.socketpair()
    document = {"k": ["abc", 1, 2.5, None] * 8}
    rounds, start = 0, time.thread_time()
    with ours, theirs:
        while (used := time.thread_time() - start) < seconds:
            for _ in range(50):
                ours.send(b"x" * 200)
                theirs.recv(256)
            json.loads(json.dumps(document))
            rounds += 1
    return rounds / used / _REFERENCE


def processes(leaders: Iterable[int]) -> list[int]:
    """List the living processes of the group."""
    return [pid for pid, fields in _group(leaders) if fields[0] not in ("Z", "X")]


def cpu(leaders: Iterable[int]) -> float:
    """CPU seconds that the processes of the group have used, ended children included."""
    return sum(sum(map(int, fields[11:15])) for _, fields in _group(leaders)) / _TICKS


def resident(leaders: Iterable[int]) -> float:
    """MiB of memory that these processes have resident; pages shared by several count for each."""
    return sum(_kilobytes(pid) for pid in processes(leaders)) / 1024


def descriptors(leaders: Iterable[int]) -> int:
    """How many files and sockets these processes have open."""
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in processes(leaders))


def load() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0]


def _kilobytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


def _group(leaders: Iterable[int]) -> list[tuple[int, list[str]]]:
    found, everything = set(leaders), list(_all())
    while more := {pid for pid, fields in everything if int(fields[1]) in found or int(fields[3]) in found} - found:
        found |= more
    return [(pid, fields) for pid, fields in everything if pid in found]


def _all() -> Iterator[tuple[int, list[str]]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue  # it has ended meanwhile
            yield int(entry), stat.rpartition(")")[2].split()
