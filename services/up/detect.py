"""Find model servers on this machine and vendors' keys in the environment; make a provider of each.

All of it goes through the public REST API, so discovery, registry and router treat what was found like any other
provider. Running it again changes nothing; what a user made or changed is left alone.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx

from services.up.edge import Edge, EdgeRefused
from services.up.findings import Finding, State
from services.up.keys import add_keys
from services.up.vendors import LOCAL_SERVERS, LocalServer

PROBE_SECONDS = 0.3
MAX_ANSWER_BYTES = 4 * 1024 * 1024
LOOPBACK = "127.0.0.1"
WORKSPACE = "default"


async def detect(
    client: httpx.AsyncClient,
    *,
    environment: Mapping[str, str],
    own_ports: Collection[int],
    servers: Sequence[LocalServer] = LOCAL_SERVERS,
) -> list[Finding]:
    """Register what is found and tell what came of each; never raises for what the edge or a server says.

    ``client`` has the edge's base URL and credential. ``own_ports`` are never probed: the ports that this
    process listens on itself, the demo provider's included.
    """
    edge = Edge(client)
    local, keys = await asyncio.gather(
        add_servers(edge, [server for server in servers if server.port not in own_ports]),
        add_keys(edge, environment),
    )
    return local + keys


async def add_servers(edge: Edge, servers: Sequence[LocalServer]) -> list[Finding]:
    """Probe ``servers`` in parallel and register those that answer as model servers."""
    async with httpx.AsyncClient(trust_env=False, timeout=PROBE_SECONDS) as client:
        answers = await asyncio.gather(*(is_model_server(client, server.port) for server in servers))
    found = [server for server, answered in zip(servers, answers, strict=True) if answered]
    # One after the other: two entries of the table may be one provider.
    return [await _add(edge, server) for server in found]


async def is_model_server(client: httpx.AsyncClient, port: int) -> bool:
    """Tell whether an OpenAI-compatible server that is no junctor listens on ``port`` of loopback."""
    base = f"http://{LOOPBACK}:{port}"
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            models, gateway = await asyncio.gather(
                _get(client, f"{base}/v1/models"), _get(client, f"{base}/apis/auth/discovery")
            )
    except TimeoutError:
        return False
    return _lists_models(models) and not _is_gateway(gateway)


async def _get(client: httpx.AsyncClient, url: str) -> Any:
    """Return the JSON of a 200; None for anything else, or when a junctor marked the answer."""
    body = bytearray()
    try:
        async with client.stream("GET", url) as answer:
            if answer.status_code != 200 or any(name.startswith("x-junctor-") for name in answer.headers):
                return None
            async for block in answer.aiter_bytes():
                body += block
                if len(body) > MAX_ANSWER_BYTES:
                    return None
        return json.loads(body)
    except (httpx.HTTPError, ValueError, RecursionError):
        return None


def _lists_models(body: Any) -> bool:
    return isinstance(body, dict) and isinstance(body.get("data"), list)


def _is_gateway(body: Any) -> bool:
    """Another gateway of the same contract is no model server: two that detect each other would loop."""
    return isinstance(body, dict) and "auth_enabled" in body


async def _add(edge: Edge, server: LocalServer) -> Finding:
    source = f"{server.title} on {LOOPBACK}:{server.port}"
    try:
        state, note = await _register(edge, server)
    except EdgeRefused as refused:
        state, note = State.FAILED, str(refused)
    return Finding(source, f"{WORKSPACE}/{server.provider}", state, note)


async def _register(edge: Edge, server: LocalServer) -> tuple[State, str]:
    host_url = f"http://{LOOPBACK}:{server.port}"
    for entry in await edge.providers(WORKSPACE):
        if _points_to(str(entry.get("host_url")), server.port):
            named = "" if entry["name"] == server.provider else f"as {WORKSPACE}/{entry['name']}"
            return State.KEPT, named
    description = f"Made by junctor up: {server.title} on this machine"
    body = {"name": server.provider, "host_url": host_url, "description": description}
    made = await edge.create_provider(WORKSPACE, body)
    return (State.ADDED, "") if made else (State.LEFT_ALONE, "the name is taken")


def _points_to(host_url: str, port: int) -> bool:
    try:
        parts = urlsplit(host_url)
        return parts.hostname in ("127.0.0.1", "localhost", "::1") and parts.port == port
    except ValueError:
        return False
