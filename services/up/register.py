"""Register the demo provider like any other: through the public REST API."""

from __future__ import annotations

import httpx

from services.up.edge import Edge
from services.up.findings import State

WORKSPACE = "default"
NAME = "demo"
DESCRIPTION = "Demo provider of junctor up"

_SETTABLE = (
    "project",
    "description",
    "api_key_secret_name",
    "enabled_models",
    "default_extra_body",
    "default_extra_headers",
    "required_extra_body",
    "required_extra_headers",
    "auth_header_format",
)
"""Fields that a full replace would empty; those beyond the contract are kept by it."""


async def register_demo(client: httpx.AsyncClient, host_url: str) -> State:
    """Make ``default/demo`` point to ``host_url``; a provider of that name which a user made is left alone.

    The demo may listen on another port after a restart: only its own registration is changed then.
    Raises :class:`~services.up.edge.EdgeRefused` if the edge refuses.
    """
    edge = Edge(client)
    body = {"name": NAME, "host_url": host_url, "description": DESCRIPTION}
    if await edge.create_provider(WORKSPACE, body):
        return State.ADDED
    existing = await edge.provider(WORKSPACE, NAME) or {}
    if existing.get("description") != DESCRIPTION:
        return State.LEFT_ALONE
    if existing.get("host_url") == host_url:
        return State.KEPT
    kept = {name: existing[name] for name in _SETTABLE if existing.get(name) is not None}
    await edge.replace_provider(WORKSPACE, NAME, kept | {"host_url": host_url})
    return State.UPDATED
