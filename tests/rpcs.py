"""Every RPC that the protos have, and requests that name a workspace."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import MethodDescriptor

import junctor.v1


def _methods() -> Iterator[MethodDescriptor]:
    for module in pkgutil.iter_modules(junctor.v1.__path__):
        if module.name.endswith("_pb2"):
            file: Any = importlib.import_module(f"junctor.v1.{module.name}").DESCRIPTOR
            for service in file.services_by_name.values():
                yield from service.methods


METHODS = {f"/{method.containing_service.full_name}/{method.name}": method for method in _methods()}
"""By the method's path."""


def set_names(message: Any, name: str) -> None:
    """Write ``name`` into every field called ``workspace`` or ``name`` of a request and of the resource in it."""
    for field in message.DESCRIPTOR.fields:
        if field.name in ("workspace", "name") and field.type == field.TYPE_STRING:
            setattr(message, field.name, name)
        elif field.message_type is not None and not field.is_repeated:
            _set_inner(getattr(message, field.name), name)


def _set_inner(inner: Any, name: str) -> None:
    for step in ("workspace", "name"):
        found = inner.DESCRIPTOR.fields_by_name.get(step)
        if found is not None and found.message_type is None:
            setattr(inner, step, name)
