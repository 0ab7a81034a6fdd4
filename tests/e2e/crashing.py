"""``junctord`` that kills itself at a commit: ``python -m tests.e2e.crashing FILE SERVICE… [flags]``.

When FILE holds ``before`` or ``after``, the next write transaction of any store ends so: just before its commit is
sent, or just after it has been acknowledged and before anybody is answered.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from services.assembly import Node
from services.runtime.db import Database
from services.settings import Settings

FILE = Path(sys.argv[1])


class Crashing(Database):
    """A database that does not survive its commit."""

    @asynccontextmanager
    async def write(self, *, bulk: bool = False) -> AsyncIterator[AsyncConnection]:
        async with super().write(bulk=bulk) as tx:
            yield tx
            _die("before")
        _die("after")


def _die(point: str) -> None:
    if FILE.read_text() == point:
        os.kill(os.getpid(), signal.SIGKILL)


class CrashingNode(Node):
    """A process as in production, with such databases."""

    def _database(self, service: str) -> Database:
        database = super()._database(service)
        database.__class__ = Crashing
        return database


async def main() -> None:
    words = sys.argv[2:]
    begin = next(n for n, word in enumerate(words) if word.startswith("--"))
    flags = {
        name[2:].replace("-", "_"): value for name, value in zip(words[begin::2], words[begin + 1 :: 2], strict=True)
    }
    node = CrashingNode(Settings.load(flags, os.environ, services=tuple(words[:begin])))
    await node.start()
    await asyncio.Event().wait()


asyncio.run(main())
