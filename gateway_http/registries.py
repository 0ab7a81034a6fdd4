"""The REST surface of the registries: every route of the contract's resources, over gRPC stubs.

A thin translation: shapes of requests and answers are here, rules about what a resource may be are the services'.
"""

from __future__ import annotations

from starlette.routing import BaseRoute

from gateway_http import routes_models, routes_providers, routes_secrets, routes_virtual_models, routes_workspaces
from gateway_http.stubs import Stubs

__all__ = ["Stubs", "routes"]


def routes(stubs: Stubs) -> list[BaseRoute]:
    """Return the routes to mount at the root of the application."""
    return [
        *routes_workspaces.routes(stubs.workspaces),
        *routes_secrets.routes(stubs.secrets),
        *routes_models.routes(stubs.models),
        *routes_providers.routes(stubs.providers),
        *routes_virtual_models.routes(stubs.virtual_models),
    ]
