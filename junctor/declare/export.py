"""Objects as documents: what a person or a program made, without what junctor makes and sets by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from junctor.declare.documents import Key
from junctor.declare.kinds import BY_NAME, KINDS
from junctor.declare.planning import plain

Json = Mapping[str, Any]

_DEFAULTS: Mapping[str, Any] = {
    "trust_remote_code": False,
    "custom_fields": {},
    "model_providers": [],
    "models": [],
    "request_middleware": [],
    "response_middleware": [],
    "post_response_middleware": [],
    "admin_state": "ACTIVE",
    "max_concurrency": 0,
}
"""What REST shows of fields that are not set, where that is not null."""


def documents(
    current: Mapping[Key, Json], *, kinds: Iterable[str] = (), versions: bool = False
) -> Iterator[dict[str, Any]]:
    """Write the objects as documents, in the order in which apply makes them; by name within a kind.

    ``kinds``: only these. ``versions``: with ``resource_version``, so that a later apply fails if others were faster.
    """
    only = set(kinds)
    for kind in KINDS:
        for key in sorted(key for key in current if key[0] == kind.name and (not only or kind.name in only)):
            if not kind.automatic(current[key]):
                yield document(key, current[key], versions=versions)


def document(key: Key, found: Json, *, versions: bool = False) -> dict[str, Any]:
    """Write one object as a document: what is set of what can be set."""
    kind = BY_NAME[key[0]]
    about = {"kind": kind.name, "name": key[2]} | ({"workspace": key[1]} if kind.in_workspace else {})
    given = {name: _brief(name, plain(name, found.get(name))) for name in kind.settable}
    fields = {
        name: value
        for name, value in given.items()
        if value is not None and (name not in _DEFAULTS or value != _DEFAULTS[name])
    }
    version = found.get("resource_version")
    return {**about, **fields, **({"resource_version": version} if versions and version else {})}


_SHAPED = frozenset({"timeouts", "tls", "api_endpoint", "routing"})
"""Objects with a form of their own, in which null means not set. In free-form JSON it is a value."""


def _brief(name: str, value: Any) -> Any:
    if name == "labels" and value is not None:
        return dict(sorted(value.items()))
    return _without_nulls(value) if name in _SHAPED else value


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(entry) for key, entry in value.items() if entry is not None}
    return [_without_nulls(entry) for entry in value] if isinstance(value, list) else value
