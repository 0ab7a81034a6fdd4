"""What the processes of one test run share: a folder, and things in it that are costly to make and made once."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def folder_of_the_run(temporary: pytest.TempPathFactory) -> Path:
    """The folder that is the same for every process of this test run, and another one for the next run."""
    own = temporary.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Let the first of several processes make a folder while the others wait; returns it.

    One that was left half made is made anew. ``make`` gets the folder's path; the folder is there and empty.
    """
    complete = folder / ".complete"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder.with_name(f"{folder.name}.lock")):
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            complete.touch()
    return folder


@contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Keep every other process that asks for the same lock waiting for the length of the block."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
