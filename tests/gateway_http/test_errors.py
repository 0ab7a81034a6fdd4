"""The table of reasons, and the envelopes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway_http.errors import ROWS, location, refusal, to_response
from junctor import errors
from junctor.errors import BY_REASON, FieldViolation, InvalidField, JunctorError

STATUSES = {
    "INVALID_FIELD": 422,
    "MALFORMED_REQUEST": 400,
    "RESOURCE_NOT_FOUND": 404,
    "NO_ROUTE": 404,
    "PROVIDER_NOT_READY": 404,
    "RESOURCE_EXISTS": 409,
    "WORKSPACE_MISSING": 422,
    "PROTECTED_RESOURCE": 409,
    "SECRET_MISSING": 400,
    "CREDENTIAL_UNAVAILABLE": 424,
    "ADDRESS_REFUSED": 422,
    "STALE_VERSION": 409,
    "WATCHER_TOO_SLOW": 409,
    "WATCH_EXPIRED": 410,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "LIMIT_EXCEEDED": 429,
    "OVERLOADED": 503,
    "PEER_UNAVAILABLE": 503,
    "NOT_READY": 503,
    "REVISION_NOT_REACHED": 503,
    "STORE_UNAVAILABLE": 503,
    "TOO_LARGE": 413,
    "NOT_SUPPORTED": 501,
    "INTERNAL": 500,
    "UPSTREAM_UNREACHABLE": 502,
    "UPSTREAM_TIMEOUT": 504,
    "UPSTREAM_INVALID": 502,
    "UPSTREAM_REJECTED": 502,
    "STREAM_BROKEN": 502,
}


def content(error: JunctorError, **options: bool) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(to_response(error, **options).body)
    return parsed


def test_every_reason_has_its_row() -> None:
    assert ROWS.keys() == BY_REASON.keys() == STATUSES.keys()


@pytest.mark.parametrize(("reason", "status"), STATUSES.items(), ids=STATUSES)
def test_envelope_of_a_reason(reason: str, status: int) -> None:
    error = BY_REASON[reason]("Backend networking error: text")
    response = to_response(error)
    headers = dict(response.headers)
    assert response.status == status
    assert json.loads(response.body) == {
        "detail": "Forbidden" if reason == "PERMISSION_DENIED" else error.message,
        "error": {"message": error.message, "type": ROWS[reason].type, "code": ROWS[reason].code},
    }
    assert headers[b"content-type"] == b"application/json"
    assert headers.get(b"x-should-retry") == (b"false" if status == 409 else None)
    assert headers.get(b"retry-after") == (b"1" if status == 503 else None)


@pytest.mark.parametrize(("seconds", "value"), [(0.2, b"1"), (1.0, b"1"), (1.1, b"2"), (30.0, b"30")])
def test_retry_after_is_whole_seconds_rounded_up(seconds: float, value: bytes) -> None:
    response = to_response(errors.Overloaded("full", retry_after=seconds))
    assert dict(response.headers)[b"retry-after"] == value


def test_unreachable_provider_says_so_once() -> None:
    text = "Backend networking error: connection refused"
    assert content(errors.UpstreamUnreachable("connection refused"))["detail"] == text
    assert content(errors.UpstreamUnreachable(text))["detail"] == text


@pytest.mark.parametrize(("given", "status"), [("429", 429), ("400", 400), ("401", 502), ("404", 502), ("500", 500)])
def test_rejected_typed_call_has_the_mapped_status(given: str, status: int) -> None:
    assert to_response(errors.UpstreamRejected("no", metadata={"status": given})).status == status


def test_invalid_field_is_a_list_on_registry_routes_only() -> None:
    error = InvalidField.of(FieldViolation("host_url", "must be absolute"), FieldViolation("query.sort", "unknown"))
    assert content(error, registry=True)["detail"] == [
        {"type": "value_error", "loc": ["body", "host_url"], "msg": "must be absolute"},
        {"type": "value_error", "loc": ["query", "sort"], "msg": "unknown"},
    ]
    assert content(error)["detail"] == "Invalid request: host_url: must be absolute; query.sort: unknown"
    assert content(InvalidField("x", metadata={"type": "enum"}), registry=True)["detail"] == "x"


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("name", ["body", "name"]),
        ("routing.targets[0].weight", ["body", "routing", "targets", 0, "weight"]),
        ("body.name", ["body", "name"]),
        ("query.page", ["query", "page"]),
        ("header.x-a", ["header", "x-a"]),
        ("", ["body"]),
    ],
)
def test_location_of_a_field(field: str, expected: list[str | int]) -> None:
    assert location(field) == expected


def test_anthropic_envelope_has_its_type_on_top() -> None:
    assert content(errors.NoRoute("x"), anthropic=True)["type"] == "error"
    assert "type" not in content(errors.NoRoute("x"))


def test_refusal_carries_its_headers() -> None:
    response = refusal(405, "Method Not Allowed", headers=[(b"allow", b"GET")])
    assert (b"allow", b"GET") in response.headers
    assert json.loads(response.body)["error"]["code"] == "method_not_allowed"
