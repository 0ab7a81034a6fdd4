"""What calls about access return: API keys, members of workspaces, events of the record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from junctor.records import Json, Record


@dataclass(frozen=True, kw_only=True)
class ApiKey(Record):
    """An API key without its value. ``role``: Viewer, Editor, Admin, PlatformAdmin."""

    id: str = ""
    description: str | None = None
    prefix: str | None = None
    workspace: str | None = None
    role: str = ""
    models: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    limits: Mapping[str, Any] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    expires_at: datetime | None = None
    created_at: datetime | None = None
    created_by: str | None = None
    revoked_at: datetime | None = None
    revoked_by: str | None = None
    resource_version: str = ""


@dataclass(frozen=True, kw_only=True)
class NewApiKey(ApiKey):
    """A key that was just made. ``value`` is told this once; it is in ``raw`` too."""

    value: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Member(Record):
    """Somebody's roles in a workspace. ``principal``: a subject, an e-mail address, ``group:<name>``, or ``*``."""

    principal: str = ""
    roles: tuple[str, ...] = ()
    granted_at: datetime | None = None
    granted_by: str | None = None
    resource_version: str = ""


@dataclass(frozen=True, kw_only=True)
class AuditEvent(Record):
    """One line of the record. ``action``: CREATE, UPDATE, DELETE, REFUSED; ``count``: refusals that it stands for."""

    id: str = ""
    time: datetime | None = None
    principal: str | None = None
    request_id: str | None = None
    action: str = ""
    kind: str | None = None
    workspace: str | None = None
    name: str | None = None
    method: str | None = None
    reason: str | None = None
    before: Json | None = None
    after: Json | None = None
    count: int = 1
