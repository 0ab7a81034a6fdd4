"""What a process sets for itself at its start: open files, and what the garbage collector looks at."""

from __future__ import annotations

import gc
import resource


def raise_open_files() -> None:
    """Raise the soft limit of open files to the hard one: a gateway's is its number of connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (hard, 10_240):  # macOS says "unlimited" and means OPEN_MAX
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (ValueError, OSError):
            continue
        return


def settle_heap() -> None:
    """Take all that is there now, modules most of all, out of every later garbage collection.

    A full collection would walk it each time, and hold up every stream for tens of milliseconds.
    """
    gc.collect()
    gc.freeze()
