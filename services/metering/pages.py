"""What a caller may see of the records, which of these it asks for, and where a page begins."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from google.protobuf.timestamp_pb2 import Timestamp

from junctor import filters, names
from junctor.channel import Peer
from junctor.errors import FieldViolation, InvalidField, ResourceNotFound, ResourceRef
from junctor.filters import And, Compare, Node, Not, Or
from junctor.v1 import workspaces_pb2 as pb
from junctor.v1 import workspaces_pb2_grpc
from services.metering.rows import TAG
from services.metering.store import USAGE
from services.runtime.filter_sql import compile_filter
from services.runtime.following import Follower
from services.runtime.interceptors import current_call, sees

FILTERABLE = frozenset(
    {
        *("model", "provider", "principal", "verdict", "kind", "workspace", "upstream_model", "error_source"),
        *("request_id", "id", "time"),
    }
)
PAGE, MAX_PAGE = 100, 1_000
_PLACE = re.compile(rb"u:(-?\d{1,17}):(\d{1,18})")


class Births:
    """When each workspace was made: what happened in an earlier one of its name is none of its members' business."""

    def __init__(self, access_control: Peer) -> None:
        self._at: dict[str, int] = {}
        stub = workspaces_pb2_grpc.WorkspacesStub(access_control.channel)
        self.follower: Follower[pb.Workspace] = Follower("workspaces", access_control.shown(stub.WatchWorkspaces), self)

    def replace(self, resources: list[pb.Workspace]) -> None:
        """Take a snapshot."""
        self._at = {each.name: each.created_at.ToMicroseconds() for each in resources}

    def apply(self, resource: pb.Workspace, *, deleted: bool) -> None:
        """Take one change."""
        if deleted:
            self._at.pop(resource.name, None)
        else:
            self._at[resource.name] = resource.created_at.ToMicroseconds()

    def seen(self, workspace: str) -> list[sa.ColumnElement[bool]]:
        """Return the conditions for records that the running call may see. Raises ResourceNotFound."""
        named = workspace not in ("", names.ALL_WORKSPACES)
        if named and not sees(workspace):
            raise ResourceNotFound(f"Workspace '{workspace}' not found", resource=ResourceRef("workspace", workspace))
        conditions: list[sa.ColumnElement[bool]] = [USAGE.c.workspace == workspace] if named else []
        call = current_call()
        if call is not None and call.workspaces is not None:
            conditions.append(self._within([workspace] if named else sorted(call.workspaces)))
        return conditions

    def _within(self, workspaces: Iterable[str]) -> sa.ColumnElement[bool]:
        alive = ((name, self._at[name]) for name in workspaces if name in self._at)
        return sa.or_(
            sa.false(),
            *(sa.and_(USAGE.c.workspace == name, USAGE.c.created_at >= since) for name, since in alive),
        )


def between(request: Any) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of ``since``, ``until`` and ``filter``. Raises MalformedRequest, InvalidField."""
    conditions = [compiled(filters.parse(request.filter))]
    if request.HasField("since"):
        conditions.append(USAGE.c.created_at >= _micros("since", request.since))
    if request.HasField("until"):
        conditions.append(USAGE.c.created_at < _micros("until", request.until))
    return conditions


def compiled(node: Node | None) -> sa.ColumnElement[bool]:
    """Return the WHERE clause of a filter over records. Raises MalformedRequest."""
    tags = {name for name in filters.fields(node) if name.startswith(TAG)}
    if node is not None:
        filters.require_known(node, FILTERABLE | tags)
    return compile_filter(USAGE, _renamed(node), fields=FILTERABLE | tags, kind="usage_record")


def place_of(page_size: int, page_token: str) -> tuple[int, tuple[int, int] | None]:
    """Check size and token. Raises InvalidField naming every bad one."""
    bad: list[FieldViolation] = []
    if not 0 <= page_size <= MAX_PAGE:
        bad.append(FieldViolation("page_size", f"must be between 1 and {MAX_PAGE}"))
    before = None
    if page_token:
        try:
            place = _PLACE.fullmatch(base64.urlsafe_b64decode(page_token.encode()))
        except (ValueError, binascii.Error):
            place = None
        if place is None:
            bad.append(FieldViolation("page_token", "is not a token of a page before"))
        else:
            before = (int(place[1]), int(place[2]))
    if bad:
        raise InvalidField.of(*bad)
    return page_size or PAGE, before


def token_of(place: tuple[int, int]) -> str:
    """Return the token of the page after a place."""
    return base64.urlsafe_b64encode(b"u:%d:%d" % place).decode()


def _micros(field: str, moment: Timestamp) -> int:
    try:
        moment.ToJsonString()
    except ValueError:
        raise InvalidField.of(FieldViolation(field, "must be a time of the years 1 to 9999")) from None
    return moment.ToMicroseconds()


def _renamed(node: Node | None) -> Node | None:
    """Let the filter on ``time`` be one on the column, which filters know as a time by its name."""
    match node:
        case Compare(field="time"):
            return Compare("created_at", node.op, node.value)
        case And(parts) | Or(parts):
            return type(node)(tuple(part for part in map(_renamed, parts) if part is not None))
        case Not(part):
            inner = _renamed(part)
            return node if inner is None else Not(inner)
        case _:
            return node
