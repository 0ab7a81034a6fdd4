"""The FastAPI app of everything that is not inference: health, status, discovery of auth; registries by routers.

It has no middleware. Errors that handlers raise become the envelopes of :mod:`gateway_http.errors` here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from gateway_http import errors
from junctor.errors import InternalError, JunctorError
from junctor.status import from_rpc_error

_log = logging.getLogger(__name__)

Check = Callable[[], bool]
"""Tells the present state from memory; is asked on every probe, so it must not block."""


def create_app(
    *,
    routers: Sequence[APIRouter] = (),
    ready: Check,
    services: Mapping[str, Check] | None = None,
    controllers: Mapping[str, Check] | None = None,
    auth: Callable[[], dict[str, Any]] | None = None,
    version: str = "0",
) -> FastAPI:
    """Build the app. ``services`` and ``controllers`` are what ``/status`` lists, by name.

    ``auth`` says how callers authenticate; None: not at all.
    """
    app = FastAPI(
        title="junctor",
        version=version,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
        exception_handlers={
            HTTPException: _http_exception,
            RequestValidationError: _invalid_request,
            JunctorError: _junctor_error,
            grpc.aio.AioRpcError: _rpc_error,
            Exception: _unexpected,
        },
    )
    app.include_router(_health(ready, services or {}, controllers or {}, auth))
    for router in routers:
        app.include_router(router)
    return app


def _health(
    ready: Check,
    services: Mapping[str, Check],
    controllers: Mapping[str, Check],
    auth: Callable[[], dict[str, Any]] | None,
) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/health/ready", summary="Would a request be served now?")
    async def health_ready() -> Response:
        if ready():
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready"}, 503, headers={"retry-after": "1"})

    @router.get("/health/live", summary="Is the process alive?")
    async def health_live() -> dict[str, str]:
        return {"status": "live"}

    @router.get("/status", summary="State of every service and controller")
    async def status() -> dict[str, Any]:
        states = {name: check() for name, check in services.items()}
        control = {name: check() for name, check in controllers.items()}
        up = [name for name, good in states.items() if good]
        down = [name for name, good in states.items() if not good]
        return {
            "status": "healthy" if not down and all(control.values()) else "unhealthy",
            "services": {"ready": up, "not_ready": down},
            "controllers": {"healthy": all(control.values()), "status": control},
        }

    @router.get("/apis/auth/discovery", summary="How callers authenticate")
    async def discovery() -> dict[str, Any]:
        return {"auth_enabled": False, "oidc": None} if auth is None else {"auth_enabled": True, "oidc": auth() or None}

    return router


def _write(response: errors.Response) -> Response:
    headers = {name.decode(): value.decode("latin-1") for name, value in response.headers}
    return Response(response.body, response.status, headers)


async def _junctor_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, JunctorError):
        raise error
    return _write(errors.to_response(error, registry=True))


async def _rpc_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, grpc.aio.AioRpcError):
        raise error
    return _write(errors.to_response(from_rpc_error(error), registry=True))


async def _http_exception(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers = {"allow": ", ".join(_allowed(request))}
    return JSONResponse({"detail": error.detail}, error.status_code, headers)


async def _invalid_request(request: Request, error: Exception) -> Response:
    """Write the list form without ``input`` and ``ctx``: what was sent may be a secret."""
    if not isinstance(error, RequestValidationError):
        raise error
    found = [{key: item[key] for key in ("type", "loc", "msg") if key in item} for item in error.errors()]
    return JSONResponse({"detail": found}, 422)


async def _unexpected(request: Request, error: Exception) -> Response:
    _log.error("request failed", extra={"route": request.scope.get("path")}, exc_info=error)
    return _write(errors.to_response(InternalError("Internal error")))


def _allowed(request: Request) -> list[str]:
    """Return every method that some route takes for this path: the route that raised knows only its own."""
    return [
        method
        for method in ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]
