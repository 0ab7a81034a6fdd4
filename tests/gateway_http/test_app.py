"""Health, status and the envelopes of the FastAPI app, on a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel

from gateway_http.app import create_app
from junctor.errors import FieldViolation, InvalidField, JunctorError, Overloaded, ResourceExists
from tests.gateway_http.edge import Answer, post, serving


class Secret(BaseModel):
    name: str
    value: str


def raising(make: Callable[[], Exception]) -> APIRouter:
    router = APIRouter()

    @router.get("/fails")
    async def fails() -> None:
        raise make()

    @router.post("/secrets")
    async def create(secret: Secret) -> None: ...

    @router.put("/fails")
    async def put() -> None: ...

    return router


def app_with(make: Callable[[], Exception] = RuntimeError, **options: Any) -> FastAPI:
    return create_app(routers=[raising(make)], **{"ready": lambda: True, **options})


async def ask(app: FastAPI, raw: bytes) -> Answer:
    async with serving(app=app) as edge, edge.client() as client:
        client.send(raw)
        return await client.answer()


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: e\r\n\r\n".encode()


STATUS_GOOD = {
    "status": "healthy",
    "services": {"ready": ["models", "router"], "not_ready": []},
    "controllers": {"healthy": True, "status": {"discovery": True}},
}
STATUS_BAD = {
    "status": "unhealthy",
    "services": {"ready": ["models"], "not_ready": ["router"]},
    "controllers": {"healthy": True, "status": {"discovery": True}},
}


@pytest.mark.parametrize(
    ("path", "good", "status", "body"),
    [
        ("/health/ready", True, 200, {"status": "ready"}),
        ("/health/ready", False, 503, {"status": "not ready"}),
        ("/health/live", False, 200, {"status": "live"}),
        ("/status", True, 200, STATUS_GOOD),
        ("/status", False, 200, STATUS_BAD),
        ("/apis/auth/discovery", True, 200, {"auth_enabled": False, "oidc": None}),
        ("/v1/health/ready", True, 404, {"detail": "Not Found"}),
        ("/health/ready/", True, 404, {"detail": "Not Found"}),
        ("/docs", True, 404, {"detail": "Not Found"}),
    ],
)
async def test_state_endpoint(path: str, good: bool, status: int, body: dict[str, Any]) -> None:
    services = {"models": lambda: True, "router": lambda: good}
    app = app_with(ready=lambda: good, services=services, controllers={"discovery": lambda: True})
    answer = await ask(app, get(path))
    assert (answer.status, json.loads(answer.body)) == (status, body)


async def test_openapi_document_is_served() -> None:
    answer = await ask(app_with(), get("/openapi.json"))
    assert "/health/ready" in json.loads(answer.body)["paths"]


async def test_wrong_method_names_every_method_of_the_path() -> None:
    answer = await ask(app_with(), get("/fails", "DELETE"))
    assert (answer.status, answer.headers["allow"]) == (405, "GET, PUT")
    assert json.loads(answer.body) == {"detail": "Method Not Allowed"}


async def test_invalid_body_is_listed_without_what_was_sent() -> None:
    body = b'{"name": "n", "value": ["sk-secret"]}'
    answer = await ask(app_with(), post("/secrets", body, "content-type: application/json"))
    detail = json.loads(answer.body)["detail"]
    assert answer.status == 422
    assert [(item["loc"], sorted(item)) for item in detail] == [(["body", "value"], ["loc", "msg", "type"])]
    assert b"sk-secret" not in answer.body


RAISED: dict[str, tuple[Callable[[], Exception], int, Any]] = {
    "exists": (lambda: ResourceExists("taken"), 409, "taken"),
    "fields": (
        lambda: InvalidField.of(FieldViolation("name", "rule")),
        422,
        [{"type": "value_error", "loc": ["body", "name"], "msg": "rule"}],
    ),
    "overloaded": (lambda: Overloaded("full"), 503, "full"),
    "rpc": (
        lambda: grpc.aio.AioRpcError(
            grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), grpc.aio.Metadata(), details="no such model"
        ),
        404,
        "no such model",
    ),
    "base": (lambda: JunctorError("odd"), 500, "odd"),
}


@pytest.mark.parametrize(("make", "status", "detail"), RAISED.values(), ids=RAISED)
async def test_raised_error_is_an_envelope(make: Callable[[], Exception], status: int, detail: object) -> None:
    answer = await ask(app_with(make), get("/fails"))
    assert (answer.status, json.loads(answer.body)["detail"]) == (status, detail)
    assert answer.headers.get("x-should-retry") == ("false" if status == 409 else None)


async def test_bug_says_nothing() -> None:
    answer = await ask(app_with(lambda: RuntimeError("at 10.0.0.1")), get("/fails"))
    assert (answer.status, json.loads(answer.body)["detail"]) == (500, "Internal error")
