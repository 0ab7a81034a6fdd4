"""What a caller may write of each resource, as keyword arguments of ``create`` and ``update``.

A key that is not given is not sent. What is stored is documented in the protos of ``junctor.v1``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

Json = Mapping[str, Any]


class ModelFields(TypedDict, total=False):
    """Settable fields of a model entity. ``backend_format``: OPENAI_CHAT, ANTHROPIC_MESSAGES or None (clears)."""

    description: str | None
    project: str | None
    base_model: str | None
    fileset: str | None
    finetuning_type: str | None
    api_endpoint: Json | None
    backend_format: str | None
    prompt: Any
    custom_fields: Json | None
    ownership: Json | None
    model_providers: Sequence[str] | None
    spec: Json | None
    trust_remote_code: bool | None
    resource_version: str
    labels: Mapping[str, str] | None


class ProviderFields(TypedDict, total=False):
    """Settable fields of a provider except its address. ``enabled_models``: None means all, empty means none."""

    description: str | None
    project: str | None
    api_key_secret_name: str | None
    enabled_models: Sequence[str] | None
    default_extra_body: Json | None
    default_extra_headers: Mapping[str, str] | None
    required_extra_body: Json | None
    required_extra_headers: Mapping[str, str] | None
    model_deployment_id: str | None
    auth_header_format: str | None
    timeouts: Mapping[str, int] | None
    api_base_path: str | None
    models_path: str | None
    static_models: Sequence[str] | None
    tls: Json | None
    proxy: str | None
    max_concurrency: int | None
    admin_state: str
    resource_version: str
    labels: Mapping[str, str] | None


class ProviderChanges(ProviderFields, total=False):
    """What :meth:`Providers.modify` may change."""

    host_url: str


class StatusFields(TypedDict, total=False):
    """What may be set of a provider's status by hand."""

    status: str
    status_message: str
    served_models: Sequence[Mapping[str, str]]
    model_deployment_id: str | None


class VirtualModelFields(TypedDict, total=False):
    """Settable fields of a virtual model. ``default_model_entity``: ``workspace/name``."""

    description: str | None
    project: str | None
    default_model_entity: str | None
    models: Sequence[Any] | None
    request_middleware: Sequence[Any] | None
    response_middleware: Sequence[Any] | None
    post_response_middleware: Sequence[Any] | None
    override_proxy: Any
    routing: Json | None
    resource_version: str
    labels: Mapping[str, str] | None


PROVIDER_SETTABLE = tuple(sorted(ProviderChanges.__annotations__.keys() | ProviderFields.__annotations__.keys()))
"""Keys that a full replace of a provider repeats to keep them."""
