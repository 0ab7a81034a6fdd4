"""The requests behind apply, diff and export: read all of a kind, check, create, change, delete. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from junctor.declare.kinds import PROVIDER, SECRET, WORKSPACE, Kind
from junctor.errors import InternalError
from junctor.paging import Page
from junctor.request import Answer, Request, content, nothing, segment
from junctor.resources.kinds import decoded

Json = Mapping[str, Any]
PAGE = 1000
"""Items of a page, the most that the contract allows."""


def page(kind: Kind, workspace: str, number: int, size: int = PAGE) -> Request[Page[Json]]:
    """Read one page of a workspace's objects."""
    query = {"page": number, "page_size": size} | ({} if kind is SECRET else {"sort": "name"})
    return Request("GET", _all(kind, workspace), lambda got: Page.read(decoded(got), dict), query)


def one(kind: Kind, workspace: str, name: str) -> Request[Json]:
    """Read one object."""
    return Request("GET", f"{_all(kind, workspace)}/{segment(name)}", _object)


def validate(kind: Kind, workspace: str, body: Json) -> Request[Json]:
    """Have the service check what a create would be sent; answers the object in full, writes nothing."""
    return Request("POST", f"{_all(kind, workspace)}/-/validate", _object, body=content(body))


def create(kind: Kind, workspace: str, body: Json) -> Request[Json]:
    """Create one."""
    return Request("POST", _all(kind, workspace), _object, body=content(body))


def change(kind: Kind, workspace: str, name: str, body: Json) -> Request[Json]:
    """Change one: null clears. Providers and workspaces are replaced, the others are changed in part."""
    method = "PUT" if kind in (PROVIDER, WORKSPACE) else "PATCH"
    query = {} if kind in (PROVIDER, WORKSPACE, SECRET) else {"null": "clear"}
    return Request(method, f"{_all(kind, workspace)}/{segment(name)}", _object, query, content(body))


def delete(kind: Kind, workspace: str, name: str, resource_version: str) -> Request[None]:
    """Delete one, if it is still what was seen."""
    query = {"resource_version": resource_version or None}
    return Request("DELETE", f"{_all(kind, workspace)}/{segment(name)}", nothing, query)


def _all(kind: Kind, workspace: str) -> str:
    return kind.rest.path.format(workspace=segment(workspace, "workspace")) if kind.in_workspace else kind.rest.path


def _object(answer: Answer) -> Json:
    found = decoded(answer)
    if not isinstance(found, dict):
        raise InternalError("the server's answer is no JSON object; is the base URL junctor's?")
    return found
