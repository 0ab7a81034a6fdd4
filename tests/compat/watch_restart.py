"""Five processes of junctor, a client that watches models, and a model registry that is killed while both go on.

Run by ``interop.sh`` with the client of ``examples/go/watch`` and an empty folder. What the client printed must be
every acknowledged change once, in the order of the revisions, over at least one cut.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import httpx

from services.settings_table import GATEWAY, PORTS
from tests.e2e.processes import Deployment, deployment

MODELS = "/apis/models/v2/workspaces/default/models"
BEFORE, DURING = 20, 200
KILL_AFTER = 60
"""Writes of the second part after which the registry is killed."""
BOUND = 180.0


async def main(client: str, folder: Path) -> None:
    """Raise AssertionError with what was seen if anything is lost, doubled or out of order."""
    groups = [[name] for name in (*PORTS, GATEWAY)]
    async with asyncio.timeout(BOUND), deployment(folder, *groups) as made:
        for process in made.processes.values():
            await process.start()
        await made.http_ready()
        base = f"http://127.0.0.1:{made.http_port}"
        async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=60) as http:
            wanted = [await _write(http, f"before-{n}") for n in range(BEFORE)]
            target = f"127.0.0.1:{made.grpc_ports['model-registry']}"
            watching = await asyncio.create_subprocess_exec(
                client, "-target", target, "-until", "default/the-end", stdout=asyncio.subprocess.PIPE
            )
            wanted += await _write_across_a_restart(http, made)
            wanted.append(await _write(http, "the-end"))
            assert watching.stdout is not None
            lines = (await watching.stdout.read()).decode().splitlines()
            assert await watching.wait() == 0, lines[-20:]
    _compare(lines, wanted)


async def _write_across_a_restart(http: httpx.AsyncClient, made: Deployment) -> list[str]:
    done: list[str] = []
    registry = made.processes["model-registry"]

    async def restart() -> None:
        while len(done) < KILL_AFTER:
            await asyncio.sleep(0.002)
        await registry.kill()
        await registry.start()

    async with asyncio.TaskGroup() as both:
        both.create_task(restart())
        for n in range(DURING):
            done.append(await _write(http, f"during-{n}"))
            if n % 10 == 9:
                done.append(await _remove(http, f"during-{n - 5}"))
    return done


async def _write(http: httpx.AsyncClient, name: str) -> str:
    """Create a model, however often the registry is away; return the line that a watcher prints for it."""
    while True:
        answer = await http.post(MODELS, json={"name": name})
        if answer.status_code == 409:  # the write before was done, only its answer was lost
            answer = await http.get(f"{MODELS}/{name}")
        if answer.status_code in (200, 201):
            return f"exists default/{name} {answer.json()['resource_version']}"
        await _away(answer)


async def _remove(http: httpx.AsyncClient, name: str) -> str:
    while True:
        answer = await http.delete(f"{MODELS}/{name}")
        if answer.status_code == 204:
            return f"gone default/{name} {answer.headers['x-junctor-revision'].partition(':')[2]}"
        if answer.status_code == 404:  # done before, its answer was lost: the watcher alone knows the revision
            return f"gone default/{name} ?"
        await _away(answer)


async def _away(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    await asyncio.sleep(0.02)


def _compare(lines: list[str], wanted: list[str]) -> None:
    events = [line.split() for line in lines if line.startswith(("exists ", "gone "))]
    cuts = [line for line in lines if line.startswith("away ")]
    resumed = [line for line in lines if line.startswith("synced resumed=true")]
    assert cuts, "the watcher never lost the registry"
    assert resumed, "the watcher did not resume"
    in_snapshot = {f"exists default/before-{n}" for n in range(BEFORE)}
    first = next(n for n, line in enumerate(lines) if line.startswith("synced"))
    snapshot = {tuple(line.split()[:2]) for line in lines[:first]}
    assert {tuple(line.split()[:2]) for line in in_snapshot} <= snapshot
    changes = [event for event in events if tuple(event[:2]) not in snapshot or event[0] == "gone"]
    revisions = [int(event[2]) for event in changes]
    assert revisions == sorted(set(revisions)), "doubled or out of order"
    assert [event[:2] for event in events] == [line.split()[:2] for line in wanted], "lost or doubled"
    _check_revisions(changes, wanted)
    print(f"interop: {len(wanted)} changes seen once and in order over {len(cuts)} cuts")  # noqa: T201 - a command


def _check_revisions(changes: list[list[str]], wanted: list[str]) -> None:
    told: dict[tuple[str, ...], Any] = {tuple(line.split()[:2]): line.split()[2] for line in wanted}
    for kind, name, revision in changes:
        assert told[kind, name] in (revision, "?"), (kind, name, revision)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
