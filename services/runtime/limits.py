"""Limits of the process that the operating system sets."""

from __future__ import annotations

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
