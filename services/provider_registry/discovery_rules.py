"""The rules of discovery, as pure functions: which models are served under which names, and what a failure means.

Source of every rule and text: the HTTP contract, "Discovery rules" and "Status life cycle".
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from junctor import names
from junctor.v1 import model_registry_pb2 as models_pb
from junctor.v1 import provider_registry_pb2 as pb
from services.provider_registry.validation import MODEL_ID_LIMIT, MODELS_LIMIT

NOT_OPENAI = "Non-OpenAI compliant endpoint, model entity routing disabled"
GRACE_SECONDS = 30.0
"""Failing for longer than this since the last change makes a provider ERROR."""
LOST_SECONDS = 900.0
"""Still failing this long after creation makes it LOST."""

_FIRST_RETRY = 2.0
_LAST_RETRY = 10.0
_NAMED_COLLISIONS = 5
_LONGEST_NAME = 63
_KEPT_OF_A_LONG_NAME = 54

Status: TypeAlias = pb.ProviderStatus.ValueType


@dataclass(frozen=True, slots=True)
class Served:
    """What a provider serves: mappings in upstream order, and what a person should know about it."""

    models: tuple[tuple[str, str], ...]
    """Entity name (without workspace) and upstream id."""
    message: str
    """``status_message``; empty when there is nothing to say."""


NOTHING_SERVED = Served((), NOT_OPENAI)


def entity_name(upstream_id: str, workspace: str) -> str | None:
    """Return the entity name of an upstream id; None when there is no valid one."""
    raw = upstream_id.removeprefix(f"{workspace}/")
    name = re.sub(r"[^a-z0-9]+", "-", raw.lower()).strip("-")
    if name[:1].isdigit():
        name = f"m-{name}"
    if len(name) > _LONGEST_NAME:
        digest = hashlib.sha256(raw.encode()).hexdigest()[:8]
        name = f"{name[:_KEPT_OF_A_LONG_NAME].rstrip('-')}-{digest}"
    return name if names.is_name(name) else None


def listed_ids(body: bytes) -> list[str] | None:
    """Return the ids of a model list, or None when ``body`` does not have its shape. Never raises."""
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    data = parsed.get("data") if isinstance(parsed, dict) else None
    if not isinstance(data, list):
        return None
    ids = (entry.get("id") for entry in data if isinstance(entry, dict))
    return [model for model in ids if isinstance(model, str) and _is_usable(model)]


def serve(upstream_ids: Iterable[str], *, workspace: str, enabled: Sequence[str] | None) -> Served:
    """Choose and name what a provider serves. ``enabled`` None means all, empty means none.

    Of two ids with one entity name the first is served; the message names the others.
    """
    wanted = None if enabled is None else frozenset(enabled)
    taken: dict[str, str] = {}
    collisions: list[str] = []
    left_out = 0
    for upstream_id in dict.fromkeys(upstream_ids):
        if wanted is not None and upstream_id not in wanted:
            continue
        entity = entity_name(upstream_id, workspace)
        if entity is None:
            continue
        if entity in taken:
            collisions.append(f"'{upstream_id}' is not served: '{taken[entity]}' has the same name {entity}")
        elif len(taken) >= MODELS_LIMIT:
            left_out += 1
        else:
            taken[entity] = upstream_id
    return Served(tuple(taken.items()), _message(collisions, left_out))


def backend_format(upstream_id: str) -> models_pb.BackendFormat.ValueType:
    """Return the shape of requests that a model understands, judged by its id."""
    if upstream_id.startswith(("claude-", "anthropic.", "anthropic/")):
        return models_pb.BACKEND_FORMAT_ANTHROPIC_MESSAGES
    return models_pb.BACKEND_FORMAT_OPENAI_CHAT


def status_after_failure(
    status: Status,
    *,
    failing_seconds: float,
    age_seconds: float,
    grace_seconds: float = GRACE_SECONDS,
    lost_seconds: float = LOST_SECONDS,
) -> Status:
    """Return the status of a provider whose discovery failed.

    ``failing_seconds``: since its last change, or since this process began to try, whichever is less, so that a
    restart worsens nothing. READY stays READY; LOST is still retried.
    """
    if status in (pb.PROVIDER_STATUS_READY, pb.PROVIDER_STATUS_LOST) or failing_seconds <= grace_seconds:
        return status
    return pb.PROVIDER_STATUS_LOST if age_seconds > lost_seconds else pb.PROVIDER_STATUS_ERROR


def retry_seconds(failures: int) -> float:
    """Return how long after the start of the ``failures``-th failed attempt in a row the next one starts."""
    return min(_FIRST_RETRY * 1.5 ** min(max(failures - 1, 0), 10), _LAST_RETRY)


def _is_usable(model: str) -> bool:
    # Lone surrogates, which JSON can spell, cannot be stored or sent.
    return 0 < len(model) <= MODEL_ID_LIMIT and not re.search("[\0-\x1f\x7f\ud800-\udfff]", model)


def _message(collisions: Sequence[str], left_out: int) -> str:
    parts = list(collisions[:_NAMED_COLLISIONS])
    if len(collisions) > _NAMED_COLLISIONS:
        parts.append(f"{len(collisions) - _NAMED_COLLISIONS} more are not served for the same reason")
    if left_out:
        parts.append(f"{left_out} models beyond the first {MODELS_LIMIT} are not served")
    return "; ".join(parts)
