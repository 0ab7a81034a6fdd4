"""The REST surface beside inference: registries, model lists, readiness, all over gRPC stubs.

A thin translation: the shapes of requests and answers are here, the rules of what a resource may be are the
services'. ``create_app(routers=[registries.router(stubs)])`` mounts it; ``openapi.describe`` documents it.
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.routing import BaseRoute

from gateway_http import (
    routes_models,
    routes_providers,
    routes_secrets,
    routes_served,
    routes_virtual_models,
    routes_workspaces,
)
from gateway_http.stubs import Stubs

__all__ = ["Stubs", "router"]


def router(stubs: Stubs, *, default_workspace: str = "default") -> APIRouter:
    """Return every route, with full paths. ``default_workspace`` is that of plain ``/v1``."""
    routes: list[BaseRoute] = [
        *routes_workspaces.routes(stubs.workspaces),
        *routes_secrets.routes(stubs.secrets),
        *routes_models.routes(stubs.models),
        *routes_providers.routes(stubs.providers),
        *routes_virtual_models.routes(stubs.virtual_models),
        *routes_served.routes(stubs.router, default_workspace=default_workspace),
    ]
    return APIRouter(routes=routes)
