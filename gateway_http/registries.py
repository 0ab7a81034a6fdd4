"""The REST surface of the registries: every route of their resources, over gRPC stubs.

A thin translation: the shapes of requests and answers are here, the rules of what a resource may be are the
services'. ``gateway_http.routes_served`` adds what the router knows; ``gateway_http.openapi`` describes both.
"""

from __future__ import annotations

from starlette.routing import BaseRoute

from gateway_http import (
    routes_audit,
    routes_keys,
    routes_members,
    routes_models,
    routes_providers,
    routes_secrets,
    routes_usage,
    routes_virtual_models,
    routes_workspaces,
)
from gateway_http.stubs import Stubs


def routes(stubs: Stubs, settled: routes_members.Settled | None = None) -> list[BaseRoute]:
    """Return the routes, with full paths; ``settled`` waits until this process decides by a change of access."""
    members = routes_members.routes(stubs.members, *(() if settled is None else (settled,)))
    return [
        *routes_workspaces.routes(stubs.workspaces),
        *routes_secrets.routes(stubs.secrets),
        *routes_models.routes(stubs.models),
        *routes_providers.routes(stubs.providers),
        *routes_virtual_models.routes(stubs.virtual_models),
        *routes_keys.routes(stubs.keys),
        *members,
        *routes_audit.routes(stubs.audit),
        *routes_usage.routes(stubs.usage, stubs.prices),
    ]
