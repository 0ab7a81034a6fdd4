"""What a key and a member may be: every bad field is named."""

from __future__ import annotations

import time
from collections.abc import Collection

from junctor.v1 import access_pb2 as pb
from services.access.identity import PERIODS
from services.access.roles import SCOPES
from services.access_control.members import PRINCIPAL_RULE, is_principal
from services.runtime.validation import Violations

TAG_LIMIT = 16
TAG_NAME_LIMIT = 64
TAG_VALUE_LIMIT = 256
DESCRIPTION_LIMIT = 200
PATTERN_LIMIT = 256
"""Characters of a model pattern."""
PATTERNS_LIMIT = 64
_PATTERN_RULE = (
    f"must be a model's name of at most {PATTERN_LIMIT} characters, 'workspace/' in front of it optional; "
    "'*' (at most 8) stands for any characters and '?' for one"
)
MOST = 10**15
"""Of anything that is limited: a billion dollars, and sums of it still fit into every database's integers."""
_LATEST = 253402300799
"""The last second of the year 9999: what a timestamp can say."""
_MEMBER_ROLES = (pb.ROLE_VIEWER, pb.ROLE_EDITOR, pb.ROLE_ADMIN)


def check_key(key: pb.ApiKey) -> None:
    """Raise InvalidField naming every bad field of a key to create."""
    bad = Violations()
    if len(key.description) > DESCRIPTION_LIMIT or not _is_line(key.description):
        bad.add("description", f"must be at most {DESCRIPTION_LIMIT} printable characters")
    _check_role(bad, key)
    _check_models(bad, key.models)
    for index, scope in enumerate(key.scopes):
        if scope not in SCOPES:
            bad.add(f"scopes[{index}]", f"must be one of {', '.join(SCOPES)}")
    check_limits(bad, key.limits)
    _check_tags(bad, key)
    if key.HasField("expires_at") and not time.time() < key.expires_at.seconds <= _LATEST:
        bad.add("expires_at", "must be in the future")
    bad.done()


def check_limits(bad: Violations, limits: pb.KeyLimits) -> None:
    """Note every bad limit of a key or workspace."""
    for field, value in limits.ListFields():
        if field.name != "budget" and not 1 <= value <= MOST:
            bad.add(f"limits.{field.name}", f"must be 1 to {MOST}")
    if not limits.HasField("budget"):
        return
    if not 1 <= limits.budget.micros <= MOST:
        bad.add("limits.budget.micros", f"must be 1 to {MOST} (millionths of a US dollar)")
    if limits.budget.period not in PERIODS:
        bad.add("limits.budget.period", f"must be one of {', '.join(PERIODS)}")


def check_member(member: pb.Member) -> None:
    """Raise InvalidField naming every bad field of a member."""
    bad = Violations()
    if not is_principal(member.principal):
        bad.add("principal", PRINCIPAL_RULE)
    if not member.roles:
        bad.add("roles", "must be one or more of Viewer, Editor, Admin")
    for index, role in enumerate(member.roles):
        if role not in _MEMBER_ROLES:
            bad.add(f"roles[{index}]", "must be one of Viewer, Editor, Admin")
    if len(set(member.roles)) < len(member.roles):
        bad.add("roles", "must be different from one another")
    bad.done()


def _check_role(bad: Violations, key: pb.ApiKey) -> None:
    if key.role not in (*_MEMBER_ROLES, pb.ROLE_PLATFORM_ADMIN):
        bad.add("role", "must be one of Viewer, Editor, Admin, PlatformAdmin")
    elif key.role == pb.ROLE_PLATFORM_ADMIN and key.workspace:
        bad.add("workspace", "must be empty: a PlatformAdmin key is for every workspace")
    elif key.role != pb.ROLE_PLATFORM_ADMIN and not key.workspace:
        bad.add("workspace", "must be given: only a PlatformAdmin key is for every workspace")


def _check_models(bad: Violations, models: Collection[str]) -> None:
    if len(models) > PATTERNS_LIMIT:
        bad.add("models", f"must be at most {PATTERNS_LIMIT} patterns")
        return
    for index, pattern in enumerate(models):
        fits = 0 < len(pattern) <= PATTERN_LIMIT and _is_line(pattern) and not any(c in pattern for c in "[] ")
        if not fits or pattern.count("*") > 8:
            bad.add(f"models[{index}]", _PATTERN_RULE)


def _check_tags(bad: Violations, key: pb.ApiKey) -> None:
    if len(key.tags) > TAG_LIMIT:
        bad.add("tags", f"must be at most {TAG_LIMIT}")
    for name, value in key.tags.items():
        if not 0 < len(name) <= TAG_NAME_LIMIT or not _is_line(name):
            bad.add("tags", f"must have names of 1 to {TAG_NAME_LIMIT} printable characters")
        elif len(value) > TAG_VALUE_LIMIT or not _is_line(value):
            bad.add("tags", f"must have values of at most {TAG_VALUE_LIMIT} printable characters")


def _is_line(text: str) -> bool:
    return text.isprintable()
