"""Turns the registries' messages into the router's own frozen entries."""

from __future__ import annotations

from collections.abc import Mapping

from junctor.errors import CredentialUnavailable
from junctor.v1 import provider_registry_pb2 as pb
from junctor.v1 import virtual_models_pb2 as vpb
from services.inference_router.origin import Origin
from services.inference_router.snapshot import (
    AdminState,
    Policy,
    Provider,
    Retry,
    Served,
    Target,
    Timeouts,
    VirtualModel,
)
from services.inference_router.target import ProviderBase, parse_base
from services.runtime import auth_header
from services.runtime.egress import Egress
from services.runtime.pem import decode_pem
from services.runtime.provider_way import way_to

_ADMIN_STATES = {
    pb.ADMIN_STATE_UNSPECIFIED: AdminState.ACTIVE,
    pb.ADMIN_STATE_ACTIVE: AdminState.ACTIVE,
    pb.ADMIN_STATE_DRAINING: AdminState.DRAINING,
    pb.ADMIN_STATE_DISABLED: AdminState.DISABLED,
}
_POLICIES = {
    vpb.ROUTING_POLICY_UNSPECIFIED: Policy.LEAST_OUTSTANDING,
    vpb.ROUTING_POLICY_LEAST_OUTSTANDING: Policy.LEAST_OUTSTANDING,
    vpb.ROUTING_POLICY_ROUND_ROBIN: Policy.ROUND_ROBIN,
    vpb.ROUTING_POLICY_WEIGHTED: Policy.WEIGHTED,
    vpb.ROUTING_POLICY_PRIORITY: Policy.PRIORITY,
    vpb.ROUTING_POLICY_STICKY: Policy.STICKY,
}
_RETRIES = {
    vpb.RETRY_POLICY_UNSPECIFIED: Retry.BEFORE_FIRST_BYTE,
    vpb.RETRY_POLICY_BEFORE_FIRST_BYTE: Retry.BEFORE_FIRST_BYTE,
    vpb.RETRY_POLICY_CONNECT_ONLY: Retry.CONNECT_ONLY,
    vpb.RETRY_POLICY_NEVER: Retry.NEVER,
}


Key = tuple[str, str]


def secrets_of(message: pb.Provider) -> tuple[Key, ...]:
    """Return (workspace, name) of every secret that calls to a provider need."""
    named = (message.api_key_secret_name, message.tls.client_certificate_secret_name)
    return tuple((message.workspace, name) for name in named if name)


def provider_entry(message: pb.Provider, secrets: Mapping[Key, str], egress: Egress) -> Provider:
    """Make the entry of a provider; ``secrets`` has the values that could be had of :func:`secrets_of`.

    Raises ValueError or JunctorError for a message that no registry of this release would store.
    """
    base = parse_base(message.host_url, message.api_base_path if message.HasField("api_base_path") else None)
    certificate = _client_pem(message, secrets)
    return Provider(
        workspace=message.workspace,
        name=message.name,
        base=base,
        ready=message.status == pb.PROVIDER_STATUS_READY,
        served=tuple(Served(m.model_entity_id, m.served_model_name) for m in message.served_models),
        admin_state=_ADMIN_STATES.get(message.admin_state, AdminState.ACTIVE),
        secret_name=message.api_key_secret_name,
        auth=_auth(message, secrets.get((message.workspace, message.api_key_secret_name))),
        default_extra_body=message.default_extra_body or None,
        required_extra_body=message.required_extra_body or None,
        default_extra_headers=_headers(message.default_extra_headers),
        required_extra_headers=_headers(message.required_extra_headers),
        timeouts=_timeouts(message.timeouts),
        max_concurrency=message.max_concurrency,
        revision=int(message.resource_version or 0),
        origin=_origin(message, base, egress, certificate or ""),
        certificate_missing=message.tls.client_certificate_secret_name if certificate is None else "",
    )


def virtual_model_entry(message: vpb.VirtualModel) -> VirtualModel:
    """Make the entry of a virtual model."""
    return VirtualModel(
        workspace=message.workspace,
        name=message.name,
        default_entity=message.default_model_entity,
        policy=_POLICIES.get(message.routing.policy, Policy.LEAST_OUTSTANDING),
        targets=tuple(_target(target) for target in message.routing.targets),
        fallbacks=tuple(message.routing.fallbacks),
        retry=_RETRIES.get(message.routing.retry, Retry.BEFORE_FIRST_BYTE),
        autoprovisioned=message.autoprovisioned,
    )


def _auth(message: pb.Provider, secret: str | None) -> tuple[bytes, bytes] | None:
    if secret is None:
        return None
    try:
        return auth_header.parse(message.auth_header_format).render(secret)
    except CredentialUnavailable:
        return None  # calls are refused with the reason; a key that cannot be sent is no key


def _client_pem(message: pb.Provider, secrets: Mapping[Key, str]) -> str | None:
    """Return certificate and key that the provider asks for; empty: it asks for none; None: they cannot be had."""
    name = message.tls.client_certificate_secret_name
    if not name:
        return ""
    value = secrets.get((message.workspace, name))
    try:
        return None if value is None else decode_pem(value).decode("ascii")
    except CredentialUnavailable:
        return None


def _origin(message: pb.Provider, base: ProviderBase, egress: Egress, client_pem: str) -> Origin:
    way = way_to(message, egress, client_pem)
    tls = way.tls if base.scheme == "https" else None
    return Origin(base.scheme, base.host, base.port, tls, way.proxy)


def _headers(extra: pb.ExtraHeaders) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((name.lower().encode(), value.encode("latin-1")) for name, value in sorted(extra.values.items()))


def _timeouts(message: pb.ProviderTimeouts) -> Timeouts:
    return Timeouts(
        connect=message.connect_ms / 1000 or None,
        first_byte=message.first_byte_ms / 1000 or None,
        idle=message.idle_ms / 1000 or None,
        total=message.total_ms / 1000 or None,
    )


def _target(message: vpb.RoutingTarget) -> Target:
    weight = message.weight if message.HasField("weight") else 1
    if message.WhichOneof("target") == "upstream":
        upstream = message.upstream
        return Target(provider=upstream.provider, upstream_id=upstream.upstream_id, weight=weight, tier=message.tier)
    return Target(entity=message.model, weight=weight, tier=message.tier)
