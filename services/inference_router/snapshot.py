"""What the router knows of the world: frozen providers and virtual models, indexed the ways requests ask.

:class:`Catalog` is read by pure functions (``routing``) in one go, without awaiting in between; its keeper
(``catalog``) exchanges entries as changes arrive. What a request has taken out of it never changes under it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from junctor import names
from services.inference_router.origin import Origin
from services.inference_router.target import ProviderBase


class AdminState(Enum):
    """What an operator wants of a provider."""

    ACTIVE = "active"
    DRAINING = "draining"
    """No new calls; those under way finish."""
    DISABLED = "disabled"


class Policy(Enum):
    """How one of several candidates is chosen."""

    LEAST_OUTSTANDING = "least_outstanding"
    ROUND_ROBIN = "round_robin"
    WEIGHTED = "weighted"
    PRIORITY = "priority"
    STICKY = "sticky"


class Retry(Enum):
    """When another candidate may be tried."""

    BEFORE_FIRST_BYTE = "before_first_byte"
    CONNECT_ONLY = "connect_only"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Served:
    """One model as a provider serves it."""

    entity: str
    """``workspace/name``."""
    upstream_id: str


@dataclass(frozen=True, slots=True)
class Timeouts:
    """A provider's own timers in seconds; None: the router's setting."""

    connect: float | None = None
    first_byte: float | None = None
    idle: float | None = None
    total: float | None = None


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider with everything that a call to it needs."""

    workspace: str
    name: str
    base: ProviderBase
    ready: bool
    """Discovery says READY."""
    served: tuple[Served, ...] = ()
    admin_state: AdminState = AdminState.ACTIVE
    secret_name: str = ""
    """Secret of the same workspace that holds its key; empty: it needs none."""
    auth: tuple[bytes, bytes] | None = field(default=None, repr=False)
    """The rendered auth header; None: no key needed, or not at hand."""
    default_extra_body: bytes | None = None
    required_extra_body: bytes | None = None
    default_extra_headers: tuple[tuple[bytes, bytes], ...] = ()
    required_extra_headers: tuple[tuple[bytes, bytes], ...] = ()
    timeouts: Timeouts = Timeouts()
    max_concurrency: int = 0
    """Calls at a time; 0: unlimited."""
    revision: int = 0
    origin: Origin = field(default=None, repr=False)  # type: ignore[assignment]
    """Where and how to connect; by default the base's address, directly."""
    certificate_missing: str = ""
    """Secret of the client certificate that it needs, if that is not at hand or of no use; else empty."""
    ref: str = field(init=False, repr=False, compare=False)
    """``workspace/name``. Made once: a call asks for it five times."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ref", names.join(self.workspace, self.name))
        if self.origin is None:
            object.__setattr__(self, "origin", Origin(self.base.scheme, self.base.host, self.base.port))

    @property
    def lacks_key(self) -> bool:
        """It needs a key, or a client certificate, that could not be had."""
        return bool(self.missing_secret)

    @property
    def missing_secret(self) -> str:
        """Name of a secret that it needs and that could not be had; empty: none."""
        return self.secret_name if self.secret_name and self.auth is None else self.certificate_missing


@dataclass(frozen=True, slots=True)
class Target:
    """One target of a virtual model: an entity, or one upstream model of one provider."""

    entity: str = ""
    provider: str = ""
    """``workspace/name``; empty: every provider of ``entity``."""
    upstream_id: str = ""
    weight: int = 1
    tier: int = 0


@dataclass(frozen=True, slots=True)
class VirtualModel:
    """The name that a caller uses."""

    workspace: str
    name: str
    default_entity: str = ""
    """``workspace/entity``."""
    policy: Policy = Policy.LEAST_OUTSTANDING
    targets: tuple[Target, ...] = ()
    """Empty: ``default_entity``."""
    fallbacks: tuple[str, ...] = ()
    """Names in the same workspace."""
    retry: Retry = Retry.BEFORE_FIRST_BYTE
    autoprovisioned: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to serve a call."""

    provider: Provider
    upstream_id: str
    entity: str
    """``workspace/entity``: what the answer's ``model`` shows."""
    weight: int = 1
    tier: int = 0
    key: tuple[str, str] = field(init=False, repr=False, compare=False)
    """What health and load are counted by. Made once, as ``ref``."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", (self.provider.ref, self.upstream_id))


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything, by the keys that requests come with. Mappings are read-only here."""

    providers: Mapping[tuple[str, str], Provider]
    """By (workspace, name)."""
    virtual_models: Mapping[tuple[str, str], VirtualModel]
    """By (workspace, name)."""
    by_entity: Mapping[str, tuple[tuple[Provider, str], ...]]
    """``workspace/entity`` → (provider, upstream id) of every provider that lists it, in the order of its making."""
    vendor_ids: Mapping[str, Mapping[str, tuple[str, ...]]]
    """Workspace → upstream id → entities (``workspace/entity``) that are served under it."""
