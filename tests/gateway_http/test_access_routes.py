"""Keys, members and the record over REST: shapes, statuses, refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import pytest_asyncio

from tests.cluster import Cluster

KEYS, AUDIT = "/apis/auth/v2/keys", "/apis/auth/v2/audit"
MEMBERS = "/apis/entities/v2/workspaces/default/members"
KEY: dict[str, Any] = {"role": "Editor", "workspace": "default"}


@pytest_asyncio.fixture
async def http(cluster: Cluster) -> AsyncIterator[httpx.AsyncClient]:
    """The edge of a running junctor."""
    yield cluster.http


async def test_a_value_is_in_the_answer_to_the_post_and_nowhere_else(http: httpx.AsyncClient) -> None:
    asked = KEY | {
        "models": ["gpt-*"],
        "scopes": ["infer"],
        "limits": {"concurrency": 2},
        "tags": {"team": "search"},
        "expires_at": "2100-01-01T00:00:00+02:00",
        "unknown": 1,
    }
    made = await http.post(KEYS, json=asked)
    key = made.json()
    assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
    assert made.headers["x-junctor-revision"] == f"access_control:{key['resource_version']}"
    assert key == key | {
        "role": "Editor",
        "limits": {"requests_per_minute": None, "tokens_per_minute": None, "concurrency": 2, "budget": None},
        "expires_at": "2099-12-31T22:00:00.000000Z",
        "revoked_at": None,
        "created_by": None,
    }
    value = key.pop("value")
    got, listed, audit = [await http.get(path) for path in (f"{KEYS}/{key['id']}", KEYS, AUDIT)]
    assert (got.json(), listed.json()["data"]) == (key, [key])
    assert [*listed.json()["pagination"].values()] == [1, 100, 1, 1, 1]
    assert all(value not in answer.text for answer in (got, listed, audit))


async def test_a_revoked_key_is_listed_only_if_asked_for(http: httpx.AsyncClient) -> None:
    key = (await http.post(KEYS, json=KEY)).json()
    for _ in range(2):
        gone = await http.delete(f"{KEYS}/{key['id']}")
        assert (gone.status_code, gone.content) == (204, b"")
    assert (await http.get(KEYS)).json()["data"] == []
    [ended] = (await http.get(KEYS, params={"show_ended": "true"})).json()["data"]
    assert ended["revoked_at"]
    assert (await http.get(f"{KEYS}/nope")).json()["detail"] == "API key 'nope' not found"
    assert (await http.delete(f"{KEYS}/nope")).status_code == 404
    assert (await http.get(KEYS, params={"show_ended": "x"})).status_code == 422


async def test_keys_are_listed_by_workspace_filter_and_page(http: httpx.AsyncClient) -> None:
    for workspace in ("default", "system"):
        for description in ("a", "b"):
            (await http.post(KEYS, json=KEY | {"workspace": workspace, "description": description})).raise_for_status()
    (await http.post(KEYS, json={"role": "PlatformAdmin"})).raise_for_status()

    async def listed(**query: Any) -> list[tuple[Any, Any]]:
        return [(k["workspace"], k["description"]) for k in (await http.get(KEYS, params=query)).json()["data"]]

    assert len(await listed()) == 5
    assert await listed(workspace="system", sort="created_at") == [("system", "a"), ("system", "b")]
    assert await listed(**{"filter[description]": "a", "workspace": "default"}) == [("default", "a")]
    assert await listed(filter="role:PlatformAdmin") == [(None, None)]
    assert await listed(page=3, page_size=2, sort="created_at") == [(None, None)]


BAD_KEYS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "no role": ({"workspace": "default"}, {"role"}),
    "everything": (
        {"role": "Boss", "workspace": 1, "models": "x", "limits": {"concurrency": 0}, "expires_at": "soon"},
        {"role", "workspace", "models", "limits.concurrency", "expires_at"},
    ),
    "rules": (
        KEY | {"scopes": ["all"], "expires_at": "2001-01-01", "tags": {"": "x"}},
        {"scopes.0", "expires_at", "tags"},
    ),
}


@pytest.mark.parametrize("case", BAD_KEYS)
@pytest.mark.parametrize("path", [KEYS, f"{KEYS}/-/validate"], ids=["create", "validate"])
async def test_every_bad_field_of_a_key_is_named(http: httpx.AsyncClient, case: str, path: str) -> None:
    body, fields = BAD_KEYS[case]
    refused = await http.post(path, json=body)
    assert refused.status_code == 422
    named = {".".join(map(str, entry["loc"][1:])) for entry in refused.json()["detail"]}
    assert named >= fields
    assert (await http.get(KEYS)).json()["data"] == []


async def test_a_key_may_be_checked_without_being_made(http: httpx.AsyncClient) -> None:
    checked = await http.post(f"{KEYS}/-/validate", json=KEY)
    assert (checked.status_code, checked.json()["id"], "value" in checked.json()) == (200, None, False)
    assert (await http.get(KEYS)).json()["data"] == []


@pytest.mark.parametrize("principal", ["user@example.com", "group:Data Team", "group:a/b", "*"])
async def test_members_by_their_percent_encoded_principals(http: httpx.AsyncClient, principal: str) -> None:
    one = f"{MEMBERS}/{quote(principal, safe='')}"
    made = await http.post(MEMBERS, params={"wait_role_propagation": "true"}, json={"principal": principal})
    assert (made.status_code, made.json()["roles"]) == (201, ["Viewer"])  # the least, when none is named
    assert [*made.json()] == ["principal", "roles", "granted_at", "granted_by", "resource_version"]
    assert made.headers["x-junctor-revision"].startswith("access_control:")
    assert (await http.post(MEMBERS, json={"principal": principal})).status_code == 409
    changed = await http.put(one, params={"wait_role_propagation": "false"}, json={"roles": ["Editor", "Viewer"]})
    assert (changed.status_code, changed.json()["roles"]) == (200, ["Viewer", "Editor"])
    stale = {"roles": ["Admin"], "resource_version": made.json()["resource_version"]}
    assert (await http.put(one, json=stale)).status_code == 409
    assert (await http.get(one)).json() == changed.json()
    assert (await http.get(MEMBERS)).json() == {"data": [changed.json()]}
    gone = await http.delete(one)
    assert (gone.status_code, gone.json()) == (200, {"message": "Member removed", "id": principal})
    assert [(await http.request(m, one, json={"roles": ["Admin"]})).status_code for m in ("DELETE", "PUT", "GET")] == [
        404
    ] * 3


REFUSED: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "no principal": ("POST", MEMBERS, {"roles": ["Viewer"]}, 422),
    "no such role": ("POST", MEMBERS, {"principal": "jane", "roles": ["Owner"]}, 422),
    "a role of the platform": ("POST", MEMBERS, {"principal": "jane", "roles": ["PlatformAdmin"]}, 422),
    "no roles": ("PUT", f"{MEMBERS}/jane", {"roles": []}, 422),
    "roles not given": ("PUT", f"{MEMBERS}/jane", {}, 422),
    "a flag that is none": ("DELETE", f"{MEMBERS}/jane?wait_role_propagation=x", {}, 422),
    "no such workspace": ("GET", "/apis/entities/v2/workspaces/nope/members", {}, 404),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_refused_of_members(http: httpx.AsyncClient, case: str) -> None:
    method, path, body, status = REFUSED[case]
    assert (await http.request(method, path, json=body)).status_code == status


async def test_the_record_is_paged_and_filtered_and_only_read(http: httpx.AsyncClient) -> None:
    for name in ("jane", "john"):
        headers = {"x-request-id": f"of-{name}"}
        (await http.post(MEMBERS, json={"principal": name, "roles": ["Admin"]}, headers=headers)).raise_for_status()
    page = (await http.get(AUDIT, params={"filter[kind]": "member", "workspace": "default", "page_size": 1})).json()
    assert (page["pagination"]["total_results"], page["pagination"]["total_pages"], page["sort"]) == (2, 2, "-time")
    [event] = page["data"]
    assert event == event | {"action": "CREATE", "name": "john", "request_id": "of-john", "before": None, "count": 1}
    assert event["after"]["roles"] == ["ADMIN"]
    [first] = (await http.get(AUDIT, params={"filter": "request_id:of-jane", "sort": "-time"})).json()["data"]
    assert first["name"] == "jane"
    assert (await http.get(AUDIT, params={"filter": f'{{"time":{{"$gt":"{event["time"]}"}}}}'})).json()["data"] == []
    assert [(await http.get(AUDIT, params=bad)).status_code for bad in ({"sort": "time"}, {"filter": "x:1"})] == [
        422,
        400,
    ]
    assert [(await http.request(method, AUDIT)).status_code for method in ("POST", "PUT", "DELETE")] == [405] * 3


async def test_the_document_describes_them(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    assert document["components"]["schemas"]["NewApiKey"]["required"] == ["value"]
    assert "value" not in document["components"]["schemas"]["ApiKey"]["properties"]
    assert {*document["paths"][KEYS], *document["paths"][f"{KEYS}/{{id}}"]} >= {"get", "post", "delete"}
    assert {"get", "put", "delete"} <= document["paths"][
        f"{MEMBERS.replace('default', '{workspace}')}/{{principal_id}}"
    ].keys()
    assert [*document["paths"][AUDIT]] == ["get"]
