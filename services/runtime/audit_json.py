"""A resource as JSON for the record of writes: what was written, without what may be a credential.

A field whose text is never shown is there by name only, so that the record tells that there was one and that it
changed. Free-form JSON is shown as JSON; what is very long is left out with its length.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

LIMIT = 64 * 1024
"""Bytes of one resource."""
_VALUE_LIMIT = 8 * 1024
"""Bytes of one of its values, when the resource is over its limit."""
HIDDEN = "(hidden)"
CHANGED = "(hidden, changed)"


def pair(
    before: Message | None, after: Message | None, *, hidden: Collection[str] = frozenset()
) -> tuple[bytes, bytes]:
    """Return a resource before and after a write, empty for None. ``hidden``: fields whose values are not shown.

    Fields with the option ``debug_redact`` never are, however deep.
    """
    old, new = _plain(before, hidden), _plain(after, hidden)
    if before is not None and after is not None and old is not None and new is not None:
        for name in hidden:
            if name in old and name in new and getattr(before, name) != getattr(after, name):
                new[name] = _marked(new[name])
    return _dumped(old), _dumped(new)


def _plain(message: Message | None, hidden: Collection[str]) -> dict[str, Any] | None:
    if message is None:
        return None
    return {
        field.name: _hide(field, value) if _is_hidden(field, hidden) else _value(field, value)
        for field, value in message.ListFields()
    }


def _is_hidden(field: FieldDescriptor, hidden: Collection[str]) -> bool:
    return field.name in hidden or bool(field.GetOptions().debug_redact)


def _hide(field: FieldDescriptor, value: Any) -> Any:
    """Keep the names of a map's entries (header fields), nothing else."""
    if field.message_type is not None and field.message_type.full_name == "junctor.v1.ExtraHeaders":
        return dict.fromkeys(sorted(value.values), HIDDEN)
    return HIDDEN


def _marked(shown: Any) -> Any:
    return dict.fromkeys(shown, CHANGED) if isinstance(shown, dict) else CHANGED


def _value(field: FieldDescriptor, value: Any) -> Any:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        inner = message.fields_by_name["value"]
        return {str(name): _one(inner, one) for name, one in value.items()}
    return [_one(field, one) for one in value] if field.is_repeated else _one(field, value)


def _one(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        return _message(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name.removeprefix(_prefix(field)) if known is not None else int(value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _json(value)
    return value


def _prefix(field: FieldDescriptor) -> str:
    return field.enum_type.values[0].name.removesuffix("UNSPECIFIED") if field.enum_type is not None else ""


def _message(message: Any) -> Any:
    write = _WRAPPERS.get(message.DESCRIPTOR.full_name)
    return write(message) if write is not None else _plain(message, frozenset())


_WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "google.protobuf.Timestamp": lambda stamp: stamp.ToJsonString(),
    "junctor.v1.StringList": lambda wrapped: list(wrapped.values),
}


def _json(value: bytes) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return f"({len(value)} bytes)"


def _dumped(shown: dict[str, Any] | None) -> bytes:
    if shown is None:
        return b""
    text = _dumps(shown)
    if len(text) <= LIMIT:
        return text
    text = _dumps({name: _short(value) for name, value in shown.items()})
    return text if len(text) <= LIMIT else _dumps({"left_out": f"{len(text)} bytes"})


def _short(value: Any) -> Any:
    length = len(_dumps(value))
    return value if length <= _VALUE_LIMIT else f"({length} bytes left out)"


def _dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
