"""Who listens on a port, for the message that says it is taken. Linux only; elsewhere nobody is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_LISTEN = "0A"
"""State column of ``/proc/net/tcp`` for a listening socket (proc_pid_net(5))."""


@dataclass(frozen=True)
class Process:
    """A process by name and id."""

    name: str
    pid: int


def taken(port: int, flag: str = "--port", *, proc: Path = Path("/proc")) -> str:
    """Write why the port cannot be used and what to do: one line."""
    holder = listener(port, proc=proc)
    by = f" by {holder.name} (pid {holder.pid})" if holder else ""
    return f"port {port} is taken{by}; use {flag}"


def listener(port: int, *, proc: Path = Path("/proc")) -> Process | None:
    """Find the process that listens on ``port``; None if it cannot be seen (other user, other system)."""
    links = {f"socket:[{inode}]" for inode in _inodes(port, proc)}
    if not links:
        return None
    for folder in proc.glob("[0-9]*"):
        if any(link in links for link in _open_files(folder)):
            return Process(_name(folder), int(folder.name))
    return None


def _inodes(port: int, proc: Path) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            listens = len(columns) > 9 and columns[3] == _LISTEN
            if listens and int(columns[1].rpartition(":")[2], 16) == port:
                yield columns[9]


def _open_files(folder: Path) -> Iterator[str]:
    try:
        for entry in (folder / "fd").iterdir():
            yield str(entry.readlink())
    except OSError:
        return


def _name(folder: Path) -> str:
    try:
        name = (folder / "comm").read_text().strip()
    except OSError:
        name = ""
    return "".join(letter for letter in name if letter.isprintable()) or "a process"
