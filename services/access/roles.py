"""Roles, what each may do, and the scopes that narrow them: the whole vocabulary of a decision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum, IntEnum

from junctor.v1 import access_pb2


class Role(IntEnum):
    """What somebody may do in a workspace; the greater one includes the smaller."""

    NONE = access_pb2.ROLE_UNSPECIFIED
    VIEWER = access_pb2.ROLE_VIEWER
    EDITOR = access_pb2.ROLE_EDITOR
    ADMIN = access_pb2.ROLE_ADMIN
    PLATFORM_ADMIN = access_pb2.ROLE_PLATFORM_ADMIN

    @property
    def label(self) -> str:
        """As the REST contract writes it: ``Viewer``, ``PlatformAdmin``."""
        return "".join(word.capitalize() for word in self.name.split("_"))


ROLE_OF_LABEL: Mapping[str, Role] = {role.label: role for role in Role if role is not Role.NONE}
"""By the name of the REST contract."""


class Permission(Enum):
    """What an RPC needs: the value is the scope that has to be there."""

    READ = "read"
    INFER = "infer"
    WRITE = "write"
    MANAGE = "manage"
    """Members, keys, the status of providers, the record, the workspace itself."""
    PLATFORM = "platform"
    """What is not in any one workspace."""


NEEDED: Mapping[Permission, Role] = {
    Permission.READ: Role.VIEWER,
    Permission.INFER: Role.VIEWER,
    Permission.WRITE: Role.EDITOR,
    Permission.MANAGE: Role.ADMIN,
    Permission.PLATFORM: Role.PLATFORM_ADMIN,
}
"""The smallest role that has each permission."""

_SCOPES: Mapping[str, frozenset[Permission]] = {
    "read": frozenset((Permission.READ,)),
    "infer": frozenset((Permission.INFER,)),
    "write": frozenset((Permission.READ, Permission.WRITE)),
    "manage": frozenset((Permission.READ, Permission.MANAGE, Permission.PLATFORM)),
}
"""What a token with this scope may use of its role."""

SCOPES = tuple(_SCOPES)
SCOPE_PREFIX = "junctor:"
"""In front of our scopes in a token of an OIDC issuer, whose other scopes say nothing to us."""


def narrowed(scopes: Iterable[str]) -> frozenset[Permission] | None:
    """Return the permissions that scopes leave; None for no scopes: all that the role has."""
    named = tuple(scopes)
    if not named:
        return None
    return frozenset().union(*(_SCOPES.get(scope, frozenset()) for scope in named))
