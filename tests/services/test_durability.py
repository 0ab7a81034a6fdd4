"""What was acknowledged survives kill -9: nothing lost, nothing doubled, nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import sqlalchemy as sa

from junctor.v1 import model_registry_pb2 as pb
from services.runtime.changes import CHANGES
from services.runtime.paging import ListQuery
from tests.stores import model_stores

KILLS = 3
WRITES = 70
"""Acknowledged writes before each kill."""

WRITER = """
import asyncio, sys
from pathlib import Path
from junctor.v1 import model_registry_pb2 as pb
from tests.stores import model_stores

async def write(stores, writer):
    for number in range(1_000_000):
        created = await stores.models.create(pb.Model(workspace="w1", name=f"{sys.argv[2]}-{writer}-{number}"))
        print(created.name, created.resource_version, flush=True)

async def main():
    async with model_stores(Path(sys.argv[1])) as stores:
        await asyncio.gather(*(write(stores, writer) for writer in range(4)))

asyncio.run(main())
"""


def acknowledged_before_a_kill(folder: Path, run: str) -> dict[str, str]:
    """Start a writer, kill it in the midst of its writes, and return name and version of each acknowledged one."""
    command = [sys.executable, "-c", WRITER, str(folder), run]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(WRITES)]
        writer.send_signal(signal.SIGKILL)
        lines.extend(writer.stdout.read().splitlines(keepends=True))
    assert writer.returncode == -signal.SIGKILL
    return dict(line.split() for line in lines if line.endswith("\n"))


async def test_acknowledged_writes_survive_kill_9(tmp_path: Path) -> None:
    acknowledged: dict[str, str] = {}
    for run in range(KILLS):
        acknowledged |= acknowledged_before_a_kill(tmp_path, f"run{run}")
    assert len(acknowledged) >= KILLS * WRITES
    async with model_stores(tmp_path) as stores:
        found = (await stores.models.list(ListQuery(page_size=1_000))).items
        async with stores.feed.database.read() as tx:
            log = (await tx.execute(sa.select(CHANGES).order_by(CHANGES.c.revision))).all()
            newest = (await stores.feed.position(tx))[1]
            broken = (await tx.execute(sa.text("PRAGMA integrity_check"))).scalar()
    stored = {model.name: model.resource_version for model in found}
    assert acknowledged.items() <= stored.items()
    assert len(stored) <= len(acknowledged) + KILLS * 4, "more than the writes under way at each kill"
    assert sorted(pb.Model.FromString(row.body).name for row in log) == sorted(stored)
    assert [row.revision for row in log] == list(range(1, newest + 1))
    assert broken == "ok"
