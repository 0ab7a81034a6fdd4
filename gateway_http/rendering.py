"""Turns messages into the JSON of the contract, by the tables of ``gateway_http.resources``.

Null where nothing is set, enum names without their prefix, RFC 3339 UTC with six decimals, JSON bytes as the JSON that
they hold. What a field needs is looked up once per table: a page has a thousand resources with dozens of fields.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from gateway_http.resources import Key, Resource
from gateway_http.translate import WRAPPED, enum_names, is_map, nested_keys

_EPOCH = datetime(1970, 1, 1)

Write = Callable[[Any], Any]
"""Makes JSON of one message, or of one value of a field."""


def render(resource: Resource, message: Message, *, sparse: bool = False) -> dict[str, Any]:
    """Write a resource with its keys in order; ``sparse`` leaves out those that are null."""
    shown: dict[str, Any] = _resource(resource)(message)
    return {key: value for key, value in shown.items() if value is not None} if sparse else shown


@cache
def _resource(resource: Resource) -> Write:
    descriptor: Any = resource.message.DESCRIPTOR
    return _object(resource.keys, descriptor)


@cache
def _message(descriptor: Descriptor) -> Write:
    if descriptor.full_name == "google.protobuf.Timestamp":
        return time_text
    if descriptor.full_name in WRAPPED:
        values = _value(descriptor.fields_by_name["values"])
        return lambda message: values(message.values)
    return _object(nested_keys(descriptor), descriptor)


def _object(keys: Iterable[Key], descriptor: Descriptor) -> Write:
    fields = [(key.name, _key(key, descriptor)) for key in keys]
    return lambda message: {name: write(message) for name, write in fields}


def _key(key: Key, descriptor: Descriptor) -> Write:
    """Return what makes the JSON of one key, of the message that has its field."""
    name, unset = key.source or key.name, key.unset
    field = descriptor.fields_by_name[name]
    write = _value(field)
    if field.message_type is not None and field.message_type.full_name == "junctor.v1.AuthContext":
        return lambda message: write(getattr(message, name))  # in full even when nobody is known: clients read its keys
    if field.is_repeated or not field.has_presence:
        return lambda message: write(value) if (value := getattr(message, name)) else unset
    return lambda message: write(getattr(message, name)) if message.HasField(name) else unset


def _value(field: FieldDescriptor) -> Write:
    if is_map(field):
        return dict
    one = _one(field)
    return (lambda values: [one(value) for value in values]) if field.is_repeated else one


def _one(field: FieldDescriptor) -> Write:
    if field.message_type is not None:
        return _any_message  # looked up late: a message may hold its own kind
    if field.enum_type is not None:
        names = enum_names(field.enum_type)
        return lambda value: names.get(value, "UNKNOWN")
    return json.loads if field.type == FieldDescriptor.TYPE_BYTES else _itself


def _any_message(message: Message) -> Any:
    descriptor: Any = message.DESCRIPTOR
    return _message(descriptor)(message)


def _itself(value: Any) -> Any:
    return value


def time_text(stamp: Any) -> str:
    """Write a Timestamp as RFC 3339 UTC with six decimals."""
    at = _EPOCH + timedelta(seconds=stamp.seconds, microseconds=stamp.nanos // 1000)
    return f"{at.isoformat(timespec='microseconds')}Z"
