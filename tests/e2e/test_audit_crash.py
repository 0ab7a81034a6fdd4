"""The record over kill -9 and an access control that is away: real processes, each acknowledged write once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx

from tests.cluster import until
from tests.e2e.processes import PATIENCE, deployment

WRITES = 12
MODELS = "/apis/models/v2/workspaces/default/models"
GROUPS = [("access-control",), ("model-registry",), ("provider-registry", "inference-router", "gateway")]


async def test_what_is_written_while_access_control_is_away_and_a_registry_is_killed_is_recorded_once(
    tmp_path: Path,
) -> None:
    async with deployment(tmp_path, *GROUPS) as made:
        away, registry = (made.processes[name] for name in ("access-control", "model-registry"))
        for process in made.processes.values():
            await process.start()
        await made.http_ready()
        async with made.access() as access:
            await create(access.http, 0)
            await away.kill()
            await create(access.http, WRITES)
            await registry.kill()  # its outbox is full, and part of it may have been shipped and not dropped
            await registry.start()
            await away.start()
            await create(access.http, 2 * WRITES)

            async def all_there() -> bool:
                return len(await recorded(access.http)) >= 3 * WRITES

            await until(all_there, seconds=PATIENCE)
            events = await recorded(access.http)
        assert all("unexpected error" not in process.stderr for process in made.processes.values())
    assert sorted(event["name"] for event in events) == [f"m{number:02}" for number in range(3 * WRITES)]
    assert all(event["request_id"] == f"of-{event['name']}" for event in events)
    assert all(event["after"]["name"] == event["name"] and event["before"] is None for event in events)


async def create(http: httpx.AsyncClient, first: int) -> None:
    """Create models one after the other, each until it is acknowledged."""
    for name in (f"m{number:02}" for number in range(first, first + WRITES)):

        async def created(name: str = name) -> bool:
            body, headers = {"name": name}, {"x-request-id": f"of-{name}"}
            try:
                answer = await http.post(MODELS, json=body, headers=headers)
            except httpx.TransportError:
                return False
            return answer.status_code in (201, 409)

        await until(created, seconds=PATIENCE)


async def recorded(http: httpx.AsyncClient) -> list[dict[str, Any]]:
    """Return the creations of models that the record has; none while it is away."""
    wanted = json.dumps({"kind": "model", "action": "CREATE"})
    answer = await http.get("/apis/auth/v2/audit", params={"filter": wanted, "page_size": 1000})
    return list(answer.json()["data"]) if answer.status_code == 200 else []
