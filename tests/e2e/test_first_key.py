"""The key that is made for want of one: on the screen once, in no log, and gone from both after a restart."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from services.access.keys import hash_of
from tests.cluster import until
from tests.e2e.processes import PATIENCE, process
from tests.ports import free_port


async def test_the_first_key_is_told_once_on_the_screen_and_in_no_log(tmp_path: Path) -> None:
    told: list[list[str]] = []
    flags = ("--grpc-port", str(free_port()), "--data-dir", "data")
    environ = {"JUNCTOR_AUTH": "on", "JUNCTOR_LOG_LEVEL": "debug"}
    for _ in range(2):
        async with process("junctord", "access-control", *flags, folder=tmp_path, **environ) as running:

            async def serves(running: object = running) -> bool:
                assert running.running(), running.stderr  # type: ignore[attr-defined]
                return "serving access-control" in running.stderr  # type: ignore[attr-defined]

            await until(serves, seconds=PATIENCE)
            running.send(signal.SIGTERM)
            assert await running.ended() == 0
            told.append(re.findall(r"jnct_\w{43}", running.stdout))
            logged = running.stderr
            (tmp_path / "stderr").write_text("")
            assert all(key not in logged and hash_of(key) not in logged for key in told[0])
    assert [len(keys) for keys in told] == [1, 0]
    stored = b"".join(file.read_bytes() for file in (tmp_path / "data").iterdir() if file.is_file())
    assert told[0][0].encode() not in stored
    assert hash_of(told[0][0]).encode() in stored
