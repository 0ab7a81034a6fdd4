"""Faults of disk and clock in a real process, by a small library in front of libc (``faults.c``)."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("faults.c")
CAN = sys.platform == "linux" and shutil.which("cc") is not None
"""Whether the library can be built here: it needs Linux and a C compiler."""
_NAMES = ("full", "fsync", "kill", "clock")


class Faults:
    """The faults of the processes that were started with :attr:`environ`. They hold from one statement to the next."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        library, control = folder / "faults.so", folder / "faults"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, SOURCE], check=True, timeout=60)
        control.write_bytes(bytes(8 * len(_NAMES)))
        self.environ = {"LD_PRELOAD": str(library), "FAULTS": str(control)}
        with control.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)

    def set(self, **faults: int) -> None:
        """Turn faults on and off: ``full``, ``fsync`` (1, 0), ``kill`` (1 before, 2 after an fsync), ``clock`` (s)."""
        for name, value in faults.items():
            struct.pack_into("q", self._memory, 8 * _NAMES.index(name), value)

    def close(self) -> None:
        self._memory.close()
