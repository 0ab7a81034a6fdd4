"""The gRPC contract as its descriptors tell it: every RPC, any message of a type, good resources to begin with."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import strategies as st

from junctor import v1

_INTEGERS = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
}
GOOD: dict[str, dict[str, Any]] = {
    "Workspace": {"name": "fuzzed"},
    "Model": {"name": "fuzzed", "workspace": "default"},
    "VirtualModel": {"name": "fuzzed", "workspace": "default"},
    "Secret": {"name": "fuzzed", "workspace": "default"},
    "Provider": {"name": "fuzzed", "workspace": "default", "host_url": "http://127.0.0.1:9/v1", "admin_state": 3},
}
"""A resource of each kind that is taken as it is. The provider is disabled, so nobody is asked for models."""


@dataclass(frozen=True)
class Rpc:
    """One RPC."""

    service: str
    name: str
    request: Descriptor
    response: Descriptor
    streams: tuple[bool, bool]
    """Whether the client streams, whether the server does."""

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"

    def __str__(self) -> str:
        return f"{self.service.rpartition('.')[2]}.{self.name}"


def rpcs() -> Iterator[Rpc]:
    """Every RPC of every file of the contract."""
    for module in sorted(found.name for found in pkgutil.iter_modules(v1.__path__, "junctor.v1.")):
        if not module.endswith("_pb2"):
            continue
        for service in importlib.import_module(module).DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                streams = (method.client_streaming, method.server_streaming)
                yield Rpc(service.full_name, method.name, method.input_type, method.output_type, streams)


def class_of(descriptor: Descriptor) -> type[Message]:
    """Return the message class of a descriptor."""
    found: type[Message] = message_factory.GetMessageClass(
        descriptor_pool.Default().FindMessageTypeByName(descriptor.full_name)
    )
    return found


TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        [
            "",
            "default",
            "system",
            "a",
            "fuzzed",
            "\0",
            "\r\nx: y",
            "x" * 300,
            "../..",
            "http://127.0.0.1:9",
            "\N{RIGHT-TO-LEFT OVERRIDE}",
            "%00",
        ]
    ),
    st.text(st.characters(max_codepoint=127), max_size=20),
)
BLOBS = st.one_of(
    st.binary(max_size=30),
    st.sampled_from([b"{}", b"[]", b"null", b'{"a":1}', b"NaN", b'{"a":1e999}', b"[" * 500, b'"\\ud800"', b"\xff"]),
)


def messages(descriptor: Descriptor, depth: int = 3) -> st.SearchStrategy[Message]:
    """Any message of a type: each field there or not."""
    names = list(descriptor.fields_by_name) if depth else []
    chosen = st.sets(st.sampled_from(names), max_size=5) if names else st.just(set())
    return chosen.flatmap(lambda fields: filled(class_of(descriptor)(), fields, depth))


def filled(start: Message, fields: set[str], depth: int = 3) -> st.SearchStrategy[Message]:
    """``start`` with random values in ``fields``."""

    def fill(values: dict[str, Any]) -> Message:
        made = type(start)()
        made.CopyFrom(start)
        for name, value in values.items():
            put(made, made.DESCRIPTOR.fields_by_name[name], value)
        return made

    chosen = {name: values(start.DESCRIPTOR.fields_by_name[name], depth) for name in sorted(fields)}
    return st.fixed_dictionaries(chosen).map(fill)


def put(message: Message, field: FieldDescriptor, value: Any) -> None:
    """Set one field, whatever its form."""
    message.ClearField(field.name)
    if is_map(field):
        target = getattr(message, field.name)
        for key, inner in value.items():
            if isinstance(inner, Message):
                target[key].CopyFrom(inner)
            else:
                target[key] = inner
    elif field.is_repeated:
        getattr(message, field.name).extend(value)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    """Any value of a field."""
    if is_map(field):
        entry = field.message_type.fields_by_name
        return st.dictionaries(values(entry["key"], depth), values(entry["value"], depth), max_size=3)
    one = _one(field, depth)
    return st.lists(one, max_size=3) if field.is_repeated else one


def _one(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return messages(field.message_type, depth - 1)
    if field.enum_type is not None:
        return st.one_of(st.sampled_from([value.number for value in field.enum_type.values]), st.integers(-5, 99))
    if field.type in _INTEGERS:
        low, high = _INTEGERS[field.type]
        return st.one_of(st.integers(low, high), st.sampled_from([0, 1, low, high]))
    if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
        return st.floats(width=32)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    return TEXTS if field.type == FieldDescriptor.TYPE_STRING else BLOBS


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Return the reason that an error of ours carries; empty: it is none of ours."""
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return ""
