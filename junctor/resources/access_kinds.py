"""Keys, members and the record as requests. Pure; sent by the twins ``access_blocking`` and ``access_awaited``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict

from junctor.access_records import ApiKey, AuditEvent, Member, NewApiKey
from junctor.paging import Page
from junctor.request import Request, content, filter_text, nothing, segment
from junctor.resources.kinds import Query, decoded

KEYS = "apis/auth/v2/keys"
AUDIT = "apis/auth/v2/audit"
_PLATFORM_ADMIN = "PlatformAdmin"


class KeyFields(TypedDict, total=False):
    """What a key may be given. ``models``: patterns (``gpt-*``, ``team/*``); ``scopes``: read, infer, write, manage.

    ``limits``: ``requests_per_minute``, ``tokens_per_minute``, ``concurrency``, and ``budget`` with ``micros`` (of a US
    dollar) and ``period`` (``day``, ``month``). What is not given does not bind.
    """

    description: str | None
    models: Sequence[str]
    scopes: Sequence[str]
    limits: Mapping[str, Any]
    tags: Mapping[str, str]
    expires_at: datetime | str | None


def create_key(role: str, workspace: str, fields: Mapping[str, Any]) -> Request[NewApiKey]:
    """Make a key; one for every workspace lies in none."""
    lies_in = {} if role == _PLATFORM_ADMIN else {"workspace": workspace}
    body = content({"role": role, **lies_in, **fields})
    return Request("POST", KEYS, lambda got: NewApiKey.read(decoded(got)), body=body)


def get_key(key_id: str) -> Request[ApiKey]:
    """Read one key."""
    return Request("GET", f"{KEYS}/{segment(key_id, 'id')}", lambda got: ApiKey.read(decoded(got)))


def list_keys(workspace: str | None, query: Query, number: int, *, show_ended: bool) -> Request[Page[ApiKey]]:
    """Read one page of keys."""
    parameters = {**_page(workspace, query, number), "show_ended": "true" if show_ended else None}
    return Request("GET", KEYS, lambda got: Page.read(decoded(got), ApiKey.read), parameters)


def revoke_key(key_id: str) -> Request[None]:
    """Revoke one key."""
    return Request("DELETE", f"{KEYS}/{segment(key_id, 'id')}", nothing)


def list_members(workspace: str) -> Request[tuple[Member, ...]]:
    """Read all members."""
    return Request("GET", _members(workspace), lambda got: tuple(Member.read(entry) for entry in decoded(got)["data"]))


def get_member(workspace: str, principal: str) -> Request[Member]:
    """Read one member."""
    return Request("GET", _member(workspace, principal), lambda got: Member.read(decoded(got)))


def create_member(workspace: str, principal: str, roles: Sequence[str]) -> Request[Member]:
    """Add a member."""
    body = content({"principal": principal, "roles": [*roles]})
    return Request("POST", _members(workspace), lambda got: Member.read(decoded(got)), body=body)


def update_member(
    workspace: str, principal: str, roles: Sequence[str], resource_version: str | None
) -> Request[Member]:
    """Replace a member's roles."""
    body = content({"roles": [*roles], "resource_version": resource_version})
    return Request("PUT", _member(workspace, principal), lambda got: Member.read(decoded(got)), body=body)


def delete_member(workspace: str, principal: str) -> Request[None]:
    """Take every role from a member."""
    return Request("DELETE", _member(workspace, principal), nothing)


def list_audit(workspace: str | None, query: Query, number: int) -> Request[Page[AuditEvent]]:
    """Read one page of the record, newest first."""
    return Request("GET", AUDIT, lambda got: Page.read(decoded(got), AuditEvent.read), _page(workspace, query, number))


def _page(workspace: str | None, query: Query, number: int) -> dict[str, str | int | None]:
    return {
        "page": number,
        "page_size": query.page_size,
        "sort": query.sort,
        "filter": filter_text(query.filter),
        "workspace": workspace,
    }


def _members(workspace: str) -> str:
    return f"apis/entities/v2/workspaces/{segment(workspace, 'workspace')}/members"


def _member(workspace: str, principal: str) -> str:
    return f"{_members(workspace)}/{segment(principal, 'principal')}"
