"""What calls return: one frozen dataclass for each kind of resource.

Every record keeps the JSON object it was read from in ``raw``, so a field that a newer server sends is not lost.
Absent and null are the same (None, or empty). Times have their zone, which is UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, TypeVar

from junctor.errors import InternalError

RecordT = TypeVar("RecordT", bound="Record")
Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Record:
    """Base of all. ``raw`` is the object as the server sent it."""

    raw: Json = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def read(cls: type[RecordT], data: Any) -> RecordT:
        """Build the record from its JSON. Raises InternalError when it is no such object."""
        if not isinstance(data, dict):
            raise InternalError(f"the server's answer is not a {cls.__name__}")
        values: dict[str, Any] = {}
        try:
            for known in fields(cls):
                if data.get(known.name) is not None and known.name != "raw":
                    values[known.name] = _READERS.get(known.name, _same)(data[known.name])
        except (TypeError, ValueError, AttributeError):
            raise InternalError(f"{known.name} in the server's answer is not what it should be") from None
        return cls(**values, raw=data)


def _same(value: Any) -> Any:
    return value


def _time(text: str) -> datetime:
    read = datetime.fromisoformat(text)
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def _strings(values: Any) -> tuple[str, ...]:
    return tuple(str(value) for value in values)


@dataclass(frozen=True, kw_only=True)
class Resource(Record):
    """What every stored resource has. ``resource_version`` given back writes only if nobody else has."""

    name: str = ""
    description: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    resource_version: str = ""
    labels: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Workspace(Resource):
    """A workspace."""

    id: str = ""
    created_by: str | None = None
    updated_by: str | None = None
    limits: Mapping[str, Any] | None = None
    """``requests_per_minute``, ``tokens_per_minute``, ``concurrency``, ``budget``; of all callers together."""


@dataclass(frozen=True, kw_only=True)
class Secret(Resource):
    """A secret without its value, which no call returns."""

    workspace: str = ""


@dataclass(frozen=True, kw_only=True)
class ApiEndpoint(Record):
    """Where a model can be reached directly. ``api_key`` is a reference, never a key."""

    url: str | None = None
    model_id: str | None = None
    api_key: str | None = None
    format: str | None = None


@dataclass(frozen=True, kw_only=True)
class Model(Resource):
    """A model entity: a catalogue entry. What can be called is in ``client.inference.models``."""

    id: str = ""
    workspace: str = ""
    project: str | None = None
    spec: Json | None = None
    finetuning_type: str | None = None
    fileset: str | None = None
    trust_remote_code: bool = False
    base_model: str | None = None
    api_endpoint: ApiEndpoint | None = None
    backend_format: str | None = None
    adapters: tuple[Any, ...] = ()
    prompt: Any = None
    custom_fields: Json = field(default_factory=dict)
    ownership: Json | None = None
    model_providers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ServedMapping(Record):
    """An entity (``workspace/name``) and its id as the provider knows it."""

    model_entity_id: str = ""
    served_model_name: str = ""


def _mappings(values: Any) -> tuple[ServedMapping, ...]:
    return tuple(ServedMapping.read(value) for value in values)


@dataclass(frozen=True, kw_only=True)
class Provider(Resource):
    """A provider. ``status``: CREATED, READY, ERROR …; ``admin_state``: ACTIVE, DRAINING, DISABLED."""

    id: str = ""
    workspace: str = ""
    project: str | None = None
    host_url: str = ""
    api_key_secret_name: str | None = None
    served_models: tuple[ServedMapping, ...] = ()
    enabled_models: tuple[str, ...] | None = None
    status: str = "UNKNOWN"
    status_message: str = ""
    default_extra_body: Json | None = None
    default_extra_headers: Mapping[str, str] | None = None
    required_extra_body: Json | None = None
    required_extra_headers: Mapping[str, str] | None = None
    model_deployment_id: str | None = None
    auth_header_format: str | None = None
    last_attempt: datetime | None = None
    next_attempt: datetime | None = None
    timeouts: Json | None = None
    api_base_path: str | None = None
    models_path: str | None = None
    static_models: tuple[str, ...] | None = None
    tls: Json | None = None
    proxy: str | None = None
    max_concurrency: int | None = None
    admin_state: str = "ACTIVE"


@dataclass(frozen=True, kw_only=True)
class VirtualModel(Resource):
    """A virtual model: the name that callers use, and where it leads."""

    id: str = ""
    workspace: str = ""
    project: str | None = None
    default_model_entity: str | None = None
    autoprovisioned: bool = False
    models: tuple[Any, ...] = ()
    routing: Json | None = None
    created_by: str | None = None
    updated_by: str | None = None


@dataclass(frozen=True, kw_only=True)
class ServedModel(Record):
    """A name that can be called now; ``id`` is ``workspace/name``, what goes into ``model``."""

    id: str = ""
    owned_by: str = ""
    created: int = 0


_READERS: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("created_at", "updated_at", "last_attempt", "next_attempt"), _time),
    **dict.fromkeys(("expires_at", "revoked_at", "granted_at", "time", "valid_from"), _time),
    **dict.fromkeys(("model_providers", "enabled_models", "static_models", "roles", "scopes", "group"), _strings),
    **dict.fromkeys(("adapters", "models"), tuple),
    "api_endpoint": ApiEndpoint.read,
    "served_models": _mappings,
}
"""How fields are read whose JSON is not their value; a name means the same in every record."""
