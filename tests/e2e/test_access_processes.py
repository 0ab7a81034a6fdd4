"""Auth on over six real processes: two of access control on one PostgreSQL, two routers, two edges, the registries.

A key works and ends everywhere; with access control dead, whoever restarts lets in whom it knew, and nobody else.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.cluster import until
from tests.e2e.processes import PATIENCE, Process, status_is
from tests.e2e.registries import migrate
from tests.ports import free_port
from tests.upstream import ScriptedUpstream

ADMIN = "the-bootstrap-key-of-this-test"
KEYS = "/apis/auth/v2/keys"
VIRTUAL = "/apis/inference-gateway/v2/workspaces/default/virtual-models"
MEMBERS = "/apis/entities/v2/workspaces/default/members"
CHAT = {"model": "default/test-model", "messages": [{"role": "user", "content": "hi"}]}
REGISTRIES = ("model-registry", "provider-registry")


@dataclass
class Fleet:
    """Processes by name, each with a folder of its own, and a port of each kind."""

    folder: Path
    database: str
    stack: AsyncExitStack
    processes: dict[str, Process] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    async def start(self, name: str, services: Sequence[str], *, data: Path | None = None, **environ: str) -> Process:
        """Start a process; ``data``: a copy of this folder is its data."""
        port = self.ports[name] = free_port()
        place = ("--port",) if "gateway" in services else ("--grpc-port",)
        folder = self.folder / name
        if data is not None:
            shutil.copytree(data, folder / "data")
        one = Process("junctord", *services, *place, str(port), "--data-dir", "data", folder=folder)
        one.environ |= {
            "JUNCTOR_AUTH": "on",
            "JUNCTOR_ADMIN_KEY": ADMIN,
            "JUNCTOR_SERVICE_TOKEN_FILE": str(self.folder / "service.token"),
            "JUNCTOR_SECRET_KEY_FILE": str(self.folder / "secret.key"),  # routers read their catalog file with it
            "JUNCTOR_UPSTREAM_NETWORKS": "public,private,loopback",
            "JUNCTOR_SEED": "false",
            "JUNCTOR_DRAIN_TIMEOUT": "2",
            **environ,
        }
        self.processes[name] = one
        self.stack.push_async_callback(one.kill)
        await one.start()
        return one

    def at(self, name: str) -> str:
        return f"127.0.0.1:{self.ports[name]}"

    async def edge(self, name: str, access: str, router: str, **more: Any) -> None:
        environ = {"JUNCTOR_ACCESS_CONTROL": self.at(access), "JUNCTOR_INFERENCE_ROUTER": self.at(router)}
        environ |= {f"JUNCTOR_{each.upper().replace('-', '_')}": self.at("core") for each in REGISTRIES}
        await self.start(name, ("gateway",), **environ, **more)

    async def router(self, name: str, access: str, **more: Any) -> None:
        environ = {f"JUNCTOR_{each.upper().replace('-', '_')}": self.at("core") for each in REGISTRIES}
        environ["JUNCTOR_ACCESS_CONTROL"] = self.at(access)
        await self.start(name, ("inference-router",), **environ, **more)

    async def ask(self, edge: str, method: str, path: str, key: str, **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} | more.pop("headers", {})
        async with httpx.AsyncClient(base_url=f"http://{self.at(edge)}", trust_env=False, timeout=60) as http:
            return await http.request(method, path, headers=headers, **more)

    async def chat(self, edge: str, key: str) -> int:
        return (await self.ask(edge, "POST", "/v1/chat/completions", key, json=CHAT)).status_code

    async def chats_with(self, edge: str, key: str, status: int) -> None:
        async def answered() -> bool:
            try:
                return await self.chat(edge, key) == status
            except httpx.TransportError:
                assert self.processes[edge].running(), self.processes[edge].stderr
                return False

        await until(answered, seconds=PATIENCE)

    async def ready(self, edge: str) -> None:
        async with httpx.AsyncClient(base_url=f"http://{self.at(edge)}", trust_env=False) as http:

            async def answers() -> bool:
                assert self.processes[edge].running(), self.processes[edge].stderr
                return await status_is(http, "/health/ready", 200)

            await until(answers, seconds=PATIENCE)


@asynccontextmanager
async def fleet(folder: Path, database: str) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        await migrate(folder, database)
        made = Fleet(folder, database, stack)
        await made.start("core", ("access-control", *REGISTRIES), JUNCTOR_DATABASE_URL=database)
        await until(lambda: _serving(made.processes["core"]), seconds=PATIENCE)
        await made.start("second", ("access-control",), JUNCTOR_DATABASE_URL=database)
        for number, access in ((1, "core"), (2, "second")):
            await made.router(f"router-{number}", access)
            await made.edge(f"edge-{number}", access, f"router-{number}")
        for edge in ("edge-1", "edge-2"):
            await made.ready(edge)
        yield made


async def _serving(process: Process) -> bool:
    assert process.running(), process.stderr
    return "serving access-control" in process.stderr


async def test_a_key_works_and_ends_everywhere_and_outlives_access_control(
    tmp_path: Path, postgres_url: str, upstream: ScriptedUpstream
) -> None:
    async with fleet(tmp_path, postgres_url) as six:
        provider = {"name": "scripted", "host_url": upstream.url}
        path = "/apis/models/v2/workspaces/default/providers"
        assert (await six.ask("edge-1", "POST", path, ADMIN, json=provider)).status_code == 201
        for edge in ("edge-1", "edge-2"):
            await six.chats_with(edge, ADMIN, 200)
        await works_and_ends_everywhere(six)
        await members_hold_everywhere(six)
        valid, revoked = await key(six, "Viewer"), await key(six, "Viewer")
        assert [await six.chat(edge, revoked) for edge in ("edge-1", "edge-2")] == [200, 200]
        await revoke(six, revoked)
        for edge in ("edge-1", "edge-2"):
            await six.chats_with(edge, revoked, 401)
        await asyncio.to_thread(saved, six, ("edge-1", "router-1"))
        await outlives_access_control(six, valid, revoked)


def saved(six: Fleet, names: Sequence[str]) -> None:
    """Wait until the books on disk have been written after the last change."""
    since = time.time()
    for name in names:
        file = six.processes[name].folder / "data" / "access.bin"
        while not file.exists() or (file.stat().st_mtime < since - 0.5 and time.time() < since + 1):
            time.sleep(0.05)


async def key(six: Fleet, role: str) -> str:
    body = {"role": role, "workspace": "default"}
    made = await six.ask("edge-1", "POST", KEYS, ADMIN, json=body)
    assert made.status_code == 201, made.text
    return str(made.json()["value"])


async def revoke(six: Fleet, value: str) -> None:
    listed = (await six.ask("edge-1", "GET", KEYS, ADMIN)).json()["data"]
    found = next(each["id"] for each in listed if each["prefix"] and value.startswith(each["prefix"]))
    assert (await six.ask("edge-1", "DELETE", f"{KEYS}/{found}", ADMIN)).status_code == 204


async def works_and_ends_everywhere(six: Fleet) -> None:
    """Make keys at one edge and show them at the other; what they do is told with the caller's name."""
    longest = 0.0
    for _ in range(5):
        made = await key(six, "Editor")
        assert [await six.chat(edge, made) for edge in ("edge-2", "edge-1")] == [200, 200]
        await revoke(six, made)
        began = time.perf_counter()
        for edge in ("edge-2", "edge-1"):
            await six.chats_with(edge, made, 401)
        longest = max(longest, time.perf_counter() - began)
    print(f"revoked everywhere after at most {longest * 1000:.0f} ms")  # noqa: T201 - a figure for whoever asks with -s
    editor = await key(six, "Editor")
    model = await six.ask("edge-2", "POST", VIRTUAL, editor, json={"name": "mine"})
    assert model.status_code == 201, model.text
    listed = (await six.ask("edge-1", "GET", KEYS, ADMIN)).json()["data"]
    mine = next(each["id"] for each in listed if editor.startswith(each["prefix"] or "-"))
    assert model.json()["created_by"] == f"key:{mine}"
    headers = {"x-request-id": "refused-here"}
    refused = await six.ask("edge-2", "POST", MEMBERS, editor, json={"principal": "a", "roles": []}, headers=headers)
    assert refused.status_code in (403, 422), refused.text
    refused = await six.ask("edge-2", "GET", MEMBERS, editor, headers=headers)
    assert refused.status_code == 403

    async def recorded() -> bool:
        told = (await six.ask("edge-1", "GET", "/apis/auth/v2/audit?page_size=200", ADMIN)).json()["data"]
        return any(
            (each["principal"], each["request_id"], each["workspace"]) == (f"key:{mine}", "refused-here", "default")
            for each in told
            if each["reason"] == "PERMISSION_DENIED"
        )

    await until(recorded, seconds=PATIENCE)


async def members_hold_everywhere(six: Fleet) -> None:
    """A key of no role in the workspace sees it as soon as everybody is a member, and not after."""
    space = {"name": "elsewhere"}
    assert (await six.ask("edge-1", "POST", "/apis/entities/v2/workspaces", ADMIN, json=space)).status_code == 201
    made = await six.ask("edge-1", "POST", KEYS, ADMIN, json={"role": "Viewer", "workspace": "elsewhere"})
    stranger = str(made.json()["value"])
    for edge in ("edge-1", "edge-2"):
        await six.chats_with(edge, stranger, 404)
    member = {"principal": "*", "roles": ["Viewer"]}
    assert (await six.ask("edge-1", "POST", MEMBERS, ADMIN, json=member)).status_code in (200, 201)
    for edge in ("edge-2", "edge-1"):
        await six.chats_with(edge, stranger, 200)
    await six.ask("edge-2", "DELETE", f"{MEMBERS}/*", ADMIN)
    for edge in ("edge-1", "edge-2"):
        await six.chats_with(edge, stranger, 404)


async def outlives_access_control(six: Fleet, valid: str, revoked: str) -> None:
    """Kill access control and the registries, then restart an edge and a router, and start some with no data."""
    for name in ("core", "second", "edge-1", "router-1"):
        await six.processes[name].kill()
    assert [await six.chat("edge-2", each) for each in (valid, revoked)] == [200, 401]
    folders = {name: six.processes[name].folder / "data" for name in ("edge-1", "router-1")}
    await six.router("router-again", "core", data=folders["router-1"])
    await six.edge("edge-again", "core", "router-again", data=folders["edge-1"])
    await six.chats_with("edge-again", valid, 200)
    assert await six.chat("edge-again", revoked) == 401
    await six.router("router-empty", "core", JUNCTOR_ROUTER_PEERS=six.at("router-again"))
    await six.edge("edge-of-it", "core", "router-empty", data=folders["edge-1"])
    await six.chats_with("edge-of-it", valid, 200)
    assert await six.chat("edge-of-it", revoked) == 401
    await six.edge("edge-empty", "core", "router-again")
    await six.edge("edge-stale", "core", "router-again", data=folders["edge-1"], JUNCTOR_ACCESS_MAX_STALE="1")
    for edge in ("edge-empty", "edge-stale"):
        await six.chats_with(edge, valid, 503)
        assert await six.chat(edge, ADMIN) == 503
