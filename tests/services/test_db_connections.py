"""SQLite's connections: whoever closes one, and however often, it ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

from services.runtime.db import _connect_sqlite
from tests.stores import BOUND


async def test_two_who_close_a_connection_at_the_same_time_both_come_back(tmp_path: Path) -> None:
    for _ in range(20):  # a pool that is disposed of and a caller that leaves
        connection = await _connect_sqlite(str(tmp_path / "a.sqlite"))
        async with asyncio.timeout(BOUND):
            await asyncio.gather(connection.close(), connection.close(), connection.close())
