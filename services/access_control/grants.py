"""Nobody gives more than they have: what a caller may make of keys and members.

With auth off nobody asks, and everything may be done. Else whoever gives a role has to have it in that workspace, and
MANAGE there. A key that is narrowed (models, scopes, limits, expiry) only makes keys that are narrowed at least as
much, field by field, and gives no role to members, whose roles none of that narrows. A user's token ends within
the hour, so its expiry does not bind what its owner makes; its scopes do.
"""

from __future__ import annotations

from junctor.errors import JunctorError, PermissionDenied
from junctor.v1 import access_pb2 as pb
from services.access.identity import NOBODY, Caller, Kind, Limits, model_pattern
from services.access.roles import NEEDED, Permission, Role, narrowed
from services.runtime.interceptors import current_call


def caller() -> Caller:
    """Return who makes the running call; :data:`NOBODY`, who may do everything, when auth is off."""
    call = current_call()
    asking = call.principal if call is not None else None
    if asking is None:
        return NOBODY
    if not isinstance(asking, Caller):
        raise PermissionDenied("It is not known what the caller may do.")
    return asking


def managed(who: Caller) -> frozenset[str] | None:
    """Return the workspaces whose keys and record the caller may see; None: every one, and what is in none."""
    if who.everywhere:
        return None if who.may(Permission.MANAGE, "") else frozenset()
    return frozenset(name for name in who.roles if who.may(Permission.MANAGE, name))


def require_manage(who: Caller, workspace: str, absent: JunctorError) -> None:
    """Raise ``absent`` for a workspace that the caller may not know of, PermissionDenied without MANAGE in it."""
    if not who.role_in(workspace):
        raise absent
    if not who.may(Permission.MANAGE, workspace):
        raise PermissionDenied(f"Keys and members of workspace '{workspace}' are managed by its Admins.")


def require_platform(workspace: str) -> None:
    """Raise PermissionDenied unless the caller may change what binds a workspace: its own Admins may not."""
    if not caller().may(Permission.PLATFORM, ""):
        raise PermissionDenied(f"The limits of workspace '{workspace}' are set by PlatformAdmins.")


def check_key(who: Caller, key: pb.ApiKey) -> None:
    """Raise PermissionDenied for a key that would be allowed more than the caller is."""
    _check_role(who, key.workspace, Role(key.role))
    wider = [field for field, holds in _BOUNDS if not holds(who, key)]
    if wider:
        raise PermissionDenied(
            f"The key would be allowed more than the one that makes it: {', '.join(wider)}. "
            "A key with models, scopes, limits or an expiry makes only keys with the same or less."
        )


def check_members(who: Caller, workspace: str, roles: list[Role]) -> None:
    """Raise PermissionDenied for roles that the caller may not give."""
    for role in roles:
        _check_role(who, workspace, role)
        left = who.identity.permissions
        if left is not None and not _permissions(role) <= left:
            raise PermissionDenied(f"The scopes of this token do not cover what the role {role.label} may do.")
    if who.models or who.limits != Limits() or (who.identity.kind is Kind.KEY and who.identity.expires is not None):
        raise PermissionDenied("A key with models, limits or an expiry cannot give roles to members, whom none binds.")


def _check_role(who: Caller, workspace: str, role: Role) -> None:
    if role > who.role_in(workspace):
        where = f"in workspace '{workspace}'" if workspace else "in every workspace"
        raise PermissionDenied(f"Only who has the role {role.label} {where} can give it.")


def _permissions(role: Role) -> frozenset[Permission]:
    return frozenset(permission for permission, needed in NEEDED.items() if needed <= role)


def _models(who: Caller, key: pb.ApiKey) -> bool:
    mine = {pattern.pattern for pattern in who.models}
    return not mine or (bool(key.models) and all(model_pattern(text).pattern in mine for text in key.models))


def _scopes(who: Caller, key: pb.ApiKey) -> bool:
    left, asked = who.identity.permissions, narrowed(key.scopes)
    return left is None or (asked is not None and asked <= left)


def _limits(who: Caller, key: pb.ApiKey) -> bool:
    for name in ("requests_per_minute", "tokens_per_minute", "concurrency"):
        mine = getattr(who.limits, name)
        if mine is not None and not (key.limits.HasField(name) and getattr(key.limits, name) <= mine):
            return False
    mine = who.limits.budget
    asked = key.limits.budget
    return mine is None or (
        key.limits.HasField("budget") and asked.period == mine.period and asked.micros <= mine.micros
    )


def _expiry(who: Caller, key: pb.ApiKey) -> bool:
    mine = who.identity.expires if who.identity.kind is Kind.KEY else None
    return mine is None or (key.HasField("expires_at") and key.expires_at.ToMicroseconds() <= mine * 1_000_000)


_BOUNDS = (("models", _models), ("scopes", _scopes), ("limits", _limits), ("expires_at", _expiry))
