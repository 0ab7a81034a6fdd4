"""Who calls: an identity as it was proven, and what it may do by one state of the access snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import translate
from re import Pattern
from re import compile as compile_pattern
from typing import TYPE_CHECKING

from services.access.roles import NEEDED, Permission, Role

if TYPE_CHECKING:
    from junctor.v1.access_pb2 import KeyLimits

EVERYBODY = "*"
"""The member that stands for every authenticated caller."""
GROUP_PREFIX = "group:"


class Kind(Enum):
    """How the caller proved who it is."""

    ANONYMOUS = "anonymous"
    """Nobody asks: auth is off."""
    KEY = "key"
    USER = "user"
    SERVICE = "service"
    """A process of junctor, by service token or certificate."""


@dataclass(frozen=True, slots=True)
class Budget:
    """An amount of money for a period."""

    micros: int
    """Millionths of a US dollar."""
    period: str
    """``day`` or ``month``, UTC."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a key or a workspace may use; None: no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    budget: Budget | None = None
    counted: bool = field(init=False, compare=False, default=False)
    """Something of it is counted by windows of time: anything but ``concurrency``."""

    def __post_init__(self) -> None:
        """Tell once what every request asks."""
        windows = (self.requests_per_minute, self.tokens_per_minute, self.budget)
        object.__setattr__(self, "counted", any(window is not None for window in windows))

    @classmethod
    def of(cls, limits: KeyLimits) -> Limits:
        """Read the message; a budget of a period that a later release may send does not bind."""
        budget = limits.budget if limits.HasField("budget") and limits.budget.period in PERIODS else None
        return cls(
            limits.requests_per_minute if limits.HasField("requests_per_minute") else None,
            limits.tokens_per_minute if limits.HasField("tokens_per_minute") else None,
            limits.concurrency if limits.HasField("concurrency") else None,
            None if budget is None else Budget(budget.micros, budget.period),
        )


PERIODS = ("day", "month")
"""Periods of budgets."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody is, whatever they may do. Fit for logs and audit: no secret in it."""

    kind: Kind
    name: str = ""
    """A key's id, a token's subject, a service's name."""
    email: str = ""
    groups: frozenset[str] = frozenset()
    permissions: frozenset[Permission] | None = None
    """What the scopes of a token leave; None: all that the roles have."""
    expires: float | None = None
    """UNIX time; None: never."""

    @property
    def principal(self) -> str:
        """As audit, ``created_by`` and usage name it: ``key:key-…``, ``user:jane``; empty for nobody."""
        return "" if self.kind is Kind.ANONYMOUS else f"{self.kind.value}:{self.name}"

    @property
    def member_names(self) -> tuple[str, ...]:
        """What a workspace's members may call it."""
        if self.kind is not Kind.USER:
            return (EVERYBODY,)
        # A subject that reads like a group or like everybody is not one: issuers let some users choose theirs.
        named = (name for name in (self.name, self.email) if name and not name.startswith((GROUP_PREFIX, EVERYBODY)))
        return (*named, EVERYBODY, *(GROUP_PREFIX + group for group in self.groups))


@dataclass(frozen=True, slots=True, eq=False)
class Caller:
    """An identity and what it may do, by one state of the snapshot. Decides by look-ups only."""

    identity: Identity
    everywhere: Role = Role.NONE
    """PLATFORM_ADMIN, or NONE."""
    roles: Mapping[str, Role] = field(default_factory=dict)
    """Greatest role by workspace."""
    models: tuple[Pattern[str], ...] = ()
    """Patterns of models that it may call; none: every one."""
    limits: Limits = Limits()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def principal(self) -> str:
        """See :attr:`Identity.principal`."""
        return self.identity.principal

    def role_in(self, workspace: str) -> Role:
        """Return the greatest role that it has in a workspace."""
        return self.everywhere or self.roles.get(workspace, Role.NONE)

    def may(self, permission: Permission, workspace: str) -> bool:
        """Tell whether its role in the workspace has the permission, and its scopes leave it."""
        left = self.identity.permissions
        return self.role_in(workspace) >= NEEDED[permission] and (left is None or permission in left)

    def may_call(self, workspace: str, model: str) -> bool:
        """Tell whether it may send inference requests to the virtual model or entity ``workspace/model``."""
        return self.may(Permission.INFER, workspace) and self.takes_model(workspace, model)

    def takes_model(self, workspace: str, model: str) -> bool:
        """Tell whether the patterns of its key, if there are any, name a model."""
        return not self.models or any(pattern.match(f"{workspace}/{model}") for pattern in self.models)

    @property
    def workspaces(self) -> frozenset[str] | None:
        """Workspaces in which it has a role; None: every one."""
        return None if self.everywhere else frozenset(self.roles)


def model_pattern(pattern: str) -> Pattern[str]:
    """Compile ``gpt-*`` (a name in any workspace) or ``team/*`` (with its workspace); case counts."""
    return compile_pattern(translate(pattern if "/" in pattern else f"*/{pattern}"))


NOBODY = Caller(Identity(Kind.ANONYMOUS), everywhere=Role.PLATFORM_ADMIN)
"""Every caller while auth is off."""
SERVICE = Caller(Identity(Kind.SERVICE, "junctor"), everywhere=Role.PLATFORM_ADMIN)
"""A process of junctor that acts for itself."""
