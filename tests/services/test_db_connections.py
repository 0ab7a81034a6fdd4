"""SQLite's connections: whoever closes one, and however often, it ends."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from services.runtime.db import _connect_sqlite
from tests.stores import BOUND


async def test_two_who_close_a_connection_at_the_same_time_both_come_back(tmp_path: Path) -> None:
    for _ in range(20):  # a pool that is disposed of and a caller that leaves
        connection = await _connect_sqlite(str(tmp_path / "a.sqlite"))
        async with asyncio.timeout(BOUND):
            await asyncio.gather(connection.close(), connection.close(), connection.close())


def test_a_file_that_cannot_be_opened_leaves_no_thread_that_speaks_to_a_loop_that_has_ended(tmp_path: Path) -> None:
    async def opened() -> None:
        await _connect_sqlite(str(tmp_path))

    for _ in range(50):  # a traceback in such a thread fails the test
        with pytest.raises(sqlite3.OperationalError):
            asyncio.run(opened())
