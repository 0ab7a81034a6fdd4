"""The client of junctor: ``Client`` and ``AsyncClient``, the results they give and the errors they raise.

Names are imported when they are first used, so ``import junctor`` alone costs next to nothing. What is not in
``__all__`` may change without notice.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from junctor.async_client import AsyncClient
    from junctor.client import Client
    from junctor.errors import JunctorError
    from junctor.paging import Page
    from junctor.records import Model, Provider, Secret, ServedModel, VirtualModel, Workspace
    from junctor.sse import ServerEvent
    from junctor.streaming import AsyncStream, Stream

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "Client",
    "JunctorError",
    "Model",
    "Page",
    "Provider",
    "Secret",
    "ServedModel",
    "ServerEvent",
    "Stream",
    "VirtualModel",
    "Workspace",
]

_HOME = {
    "AsyncClient": "async_client",
    "Client": "client",
    "JunctorError": "errors",
    "Page": "paging",
    "ServerEvent": "sse",
    "AsyncStream": "streaming",
    "Stream": "streaming",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'junctor' has no attribute {name!r}")
    return getattr(importlib.import_module(f"junctor.{_HOME.get(name, 'records')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
