"""The resources of the HTTP contract as tables: keys in the contract's order, sort fields, page sizes.

Everything that turns messages into REST JSON and back, and the OpenAPI document, reads these tables; types come
from the proto descriptors. A new field is one row here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from google.protobuf.message import Message

from junctor.filters import Compare, Node, Not
from junctor.v1 import (
    access_pb2,
    model_registry_pb2,
    provider_registry_pb2,
    secrets_pb2,
    virtual_models_pb2,
    workspaces_pb2,
)

Json = Literal["any", "object", "array"]

EDGE_NAME = r"^[\w\-.]+$"
"""First gate of the contract for names of new models and providers, narrower than the rule of all names."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a JSON object, of the same name as the message's field.

    ``unset``: what is shown when the field is not set (or empty, where the message cannot tell); ``json``: what a
    bytes field holds; ``ours``: not in the compatible contract, so its full replace leaves it alone; ``source``: the
    field whose value is shown, when that has another name.
    """

    name: str
    settable: bool = False
    unset: Any = None
    json: Json = "any"
    ours: bool = False
    required: bool = False
    pattern: str | None = None
    max_length: int | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Resource:
    """One kind of resource as REST shows it. Each is one object: it is compared and hashed as such."""

    title: str
    message: type[Message]
    store: str
    """Store whose revisions its writes answer with: ``x-junctor-revision: <store>:<revision>``."""
    keys: tuple[Key, ...]
    page_size: int
    sorts: tuple[str, ...] = ("name", "created_at", "updated_at")
    default_sort: str = "created_at"
    echoes_sort: bool = True
    echoes_filter: bool = False
    sparse_lists: bool = False
    """Lists leave out keys whose value is null."""
    flags: Mapping[str, Node] = field(default_factory=dict)
    """Query parameters of lists that are true or false, and the condition that each adds when it is true."""
    clearable: frozenset[str] = frozenset()
    """Keys that a partial update clears by null; a null of any other key means keep."""

    @property
    def settable(self) -> tuple[Key, ...]:
        """Keys that a caller may write."""
        return tuple(key for key in self.keys if key.settable)


def _shown(*names: str) -> tuple[Key, ...]:
    return tuple(Key(name) for name in names)


def _written(*names: str) -> tuple[Key, ...]:
    return tuple(Key(name, settable=True) for name in names)


_NAME = Key("name", settable=True, required=True)
_GATED_NAME = Key("name", settable=True, required=True, pattern=EDGE_NAME, max_length=255)
_DESCRIPTION = Key("description", settable=True, max_length=1000)
_VERSION = Key("resource_version", ours=True)
_LABELS = Key("labels", settable=True, ours=True)

WORKSPACE = Resource(
    title="Workspace",
    message=workspaces_pb2.Workspace,
    store="access_control",
    keys=(
        Key("id"),
        _NAME,
        _DESCRIPTION,
        *_shown("created_at", "created_by", "updated_at", "updated_by"),
        _LABELS,
        Key("limits", settable=True, ours=True),
        _VERSION,
    ),
    page_size=100,
    default_sort="-created_at",
    echoes_filter=True,
)

SECRET = Resource(
    title="Secret",
    message=secrets_pb2.Secret,
    store="provider_registry",
    keys=(_NAME, Key("workspace"), _DESCRIPTION, *_shown("created_at", "updated_at"), _LABELS, _VERSION),
    page_size=10,
    echoes_sort=False,
    sparse_lists=True,
)

SECRET_VALUE = Key("value", settable=True, required=True)
"""Write-only: no message that is answered has it."""

MODEL = Resource(
    title="Model",
    message=model_registry_pb2.Model,
    store="model_registry",
    keys=(
        Key("id"),
        _GATED_NAME,
        Key("workspace"),
        *_written("project"),
        *_shown("created_at", "updated_at"),
        _DESCRIPTION,
        Key("spec", settable=True, json="object"),
        *_written("finetuning_type", "fileset"),
        Key("trust_remote_code", settable=True, unset=False),
        *_written("base_model", "api_endpoint", "backend_format"),
        Key("adapters", unset=[], json="array"),
        Key("prompt", settable=True),
        Key("custom_fields", settable=True, unset={}, json="object"),
        Key("ownership", settable=True, json="object"),
        Key("model_providers", settable=True, unset=[]),
        _LABELS,
        _VERSION,
    ),
    page_size=100,
    sparse_lists=True,
    clearable=frozenset({"backend_format"}),
)

PROVIDER = Resource(
    title="Provider",
    message=provider_registry_pb2.Provider,
    store="provider_registry",
    keys=(
        Key("id"),
        _GATED_NAME,
        Key("workspace"),
        *_written("project"),
        *_shown("created_at", "updated_at"),
        _DESCRIPTION,
        Key("host_url", settable=True, required=True),
        *_written("api_key_secret_name"),
        Key("served_models", unset=[]),
        *_written("enabled_models"),
        Key("status", unset="UNKNOWN"),
        Key("status_message", unset=""),
        Key("default_extra_body", settable=True, json="object"),
        *_written("default_extra_headers"),
        Key("required_extra_body", settable=True, json="object"),
        *_written("required_extra_headers", "model_deployment_id"),
        Key("auth_context", unset={}),
        *_written("auth_header_format"),
        *(Key(name, ours=True) for name in ("last_attempt", "next_attempt")),
        *(
            Key(name, settable=True, ours=True)
            for name in ("timeouts", "api_base_path", "models_path", "static_models", "tls", "proxy")
        ),
        Key("max_concurrency", settable=True, ours=True),
        Key("admin_state", settable=True, unset="ACTIVE", ours=True),
        _LABELS,
        _VERSION,
    ),
    page_size=100,
    sorts=("name", "created_at", "updated_at", "status"),
    sparse_lists=True,
)

VIRTUAL_MODEL = Resource(
    title="VirtualModel",
    message=virtual_models_pb2.VirtualModel,
    store="model_registry",
    keys=(
        _NAME,
        Key("workspace"),
        *_written("project", "default_model_entity"),
        Key("autoprovisioned", unset=False),
        Key("models", settable=True, unset=[], json="array"),
        Key("request_middleware", settable=True, unset=[], json="array"),
        Key("response_middleware", settable=True, unset=[], json="array"),
        Key("post_response_middleware", settable=True, unset=[], json="array"),
        Key("override_proxy", settable=True),
        Key("id"),
        Key("entity_id", source="id"),
        Key("parent", unset=""),
        *_shown("created_at", "created_by", "updated_at", "updated_by"),
        Key("description", settable=True, max_length=1000, ours=True),
        Key("routing", settable=True, ours=True),
        _LABELS,
        _VERSION,
    ),
    page_size=20,
    default_sort="-created_at",
    clearable=frozenset({"default_model_entity", "override_proxy", "routing"}),
    flags={"exclude_autoprovisioned": Not(Compare("autoprovisioned", "eq", "true"))},
)

KEY = Resource(
    title="ApiKey",
    message=access_pb2.ApiKey,
    store="access_control",
    keys=(
        Key("id"),
        Key("description", settable=True, max_length=200),
        Key("prefix"),
        *_written("workspace"),
        Key("role", settable=True, required=True),
        *(Key(name, settable=True, unset=[]) for name in ("models", "scopes")),
        *_written("limits"),
        Key("tags", settable=True, unset={}),
        *_written("expires_at"),
        *_shown("created_at", "created_by", "revoked_at", "revoked_by"),
        _VERSION,
    ),
    page_size=100,
    sorts=("created_at", "updated_at"),
    default_sort="-created_at",
)

MEMBER = Resource(
    title="WorkspaceMember",
    message=access_pb2.Member,
    store="access_control",
    keys=(
        Key("principal", settable=True, required=True),
        Key("roles", settable=True, unset=[]),
        *_shown("granted_at", "granted_by"),
        _VERSION,
    ),
    page_size=1000,
)

AUDIT_EVENT = Resource(
    title="AuditEvent",
    message=access_pb2.AuditEvent,
    store="access_control",
    keys=(
        *_shown("id", "time", "principal", "request_id", "action", "kind", "workspace", "name", "method", "reason"),
        *_shown("before", "after"),
        Key("count", unset=1),
    ),
    page_size=100,
    sorts=("time",),
    default_sort="-time",
)

NESTED: dict[str, tuple[Key, ...]] = {
    "junctor.v1.AuthContext": (
        Key("principal_id", unset=""),
        Key("principal_email"),
        Key("principal_groups", unset=[]),
        *_shown("principal_on_behalf_of", "principal_on_behalf_of_email", "principal_on_behalf_of_groups"),
    ),
    "junctor.v1.ServedModelMapping": (
        Key("model_entity_id", settable=True, required=True),
        Key("served_model_name", settable=True, required=True),
    ),
    "junctor.v1.UpstreamTarget": (
        Key("provider", settable=True, required=True),
        Key("upstream_id", settable=True, required=True),
    ),
    "junctor.v1.RoutingTarget": (
        *_written("model", "upstream", "weight"),
        Key("tier", settable=True, unset=0),
    ),
    "junctor.v1.Routing": (
        *_written("policy"),
        Key("targets", settable=True, unset=[]),
        Key("fallbacks", settable=True, unset=[]),
        *_written("retry"),
    ),
}
"""Objects inside of resources whose keys need more than a name; the others have every field of their message."""
