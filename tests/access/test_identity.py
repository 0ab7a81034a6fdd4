"""What a caller may do, by its roles, scopes and patterns; who members mean."""

from __future__ import annotations

import pytest

from services.access.identity import EVERYBODY, NOBODY, Caller, Identity, Kind, model_pattern
from services.access.roles import Permission, Role, narrowed

P = Permission


def caller(role: Role = Role.NONE, *, scopes: tuple[str, ...] = (), models: tuple[str, ...] = ()) -> Caller:
    identity = Identity(Kind.KEY, "key-1", permissions=narrowed(scopes))
    everywhere = role if role is Role.PLATFORM_ADMIN else Role.NONE
    roles = {} if everywhere else {"team": role}
    return Caller(identity, everywhere=everywhere, roles=roles, models=tuple(map(model_pattern, models)))


@pytest.mark.parametrize(
    ("role", "may"),
    [
        (Role.NONE, set()),
        (Role.VIEWER, {P.READ, P.INFER}),
        (Role.EDITOR, {P.READ, P.INFER, P.WRITE}),
        (Role.ADMIN, {P.READ, P.INFER, P.WRITE, P.MANAGE}),
        (Role.PLATFORM_ADMIN, set(P)),
    ],
    ids=lambda value: value.label if isinstance(value, Role) else "",
)
def test_what_a_role_may(role: Role, may: set[Permission]) -> None:
    assert {permission for permission in P if caller(role).may(permission, "team")} == may
    elsewhere = may if role is Role.PLATFORM_ADMIN else set()
    assert {permission for permission in P if caller(role).may(permission, "other")} == elsewhere


@pytest.mark.parametrize(
    ("scopes", "may"),
    [
        (("infer",), {P.INFER}),
        (("read",), {P.READ}),
        (("write",), {P.READ, P.WRITE}),
        (("infer", "read"), {P.INFER, P.READ}),
        (("unheard-of",), set()),
    ],
)
def test_scopes_narrow_a_role(scopes: tuple[str, ...], may: set[Permission]) -> None:
    assert {permission for permission in P if caller(Role.ADMIN, scopes=scopes).may(permission, "team")} == may


def test_scopes_never_widen_a_role() -> None:
    assert not caller(Role.VIEWER, scopes=("write", "manage")).may(P.WRITE, "team")


@pytest.mark.parametrize(
    ("pattern", "workspace", "name", "matches"),
    [
        ("gpt-*", "team", "gpt-4o", True),
        ("gpt-*", "team", "my-gpt-4o", False),
        ("gpt-*", "other", "gpt-4o", True),
        ("team/*", "team", "anything", True),
        ("team/*", "teams", "anything", False),
        ("te?m/gpt-4o", "team", "gpt-4o", True),
        ("GPT-4o", "team", "gpt-4o", False),
        ("gpt.4o", "team", "gpt-4o", False),
        ("*", "team", "x", True),
        ("a|b", "team", "a", False),
    ],
)
def test_patterns_of_models(pattern: str, workspace: str, name: str, matches: bool) -> None:
    assert caller(Role.VIEWER, models=(pattern,)).takes_model(workspace, name) is matches


def test_auth_off_may_everything() -> None:
    assert all(NOBODY.may(permission, "any") for permission in P)
    assert NOBODY.principal == ""


@pytest.mark.parametrize("subject", ["group:admins", "*", "*everybody", "group:"])
def test_a_subject_that_reads_like_a_group_is_none(subject: str) -> None:
    assert Identity(Kind.USER, subject).member_names == (EVERYBODY,)


def test_who_a_user_is_to_members() -> None:
    user = Identity(Kind.USER, "u1", email="jane@example.com", groups=frozenset({"ops"}))
    assert user.member_names == ("u1", "jane@example.com", "*", "group:ops")
    assert user.principal == "user:u1"
    assert Identity(Kind.KEY, "key-1").member_names == ("*",)
