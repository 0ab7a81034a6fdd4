"""``client.inference.gateway``: calls through the gateway, answered as the provider answers.

Twin of :mod:`junctor.resources.gateway_blocking`. A JSON answer comes decoded, another as bytes; a refusal raises
:class:`~junctor.errors.JunctorError`. ``workspace`` is the client's unless given.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Unpack

from junctor.resources.gateway_blocking import CallOptions
from junctor.resources.routes import STREAM_ACCEPT, Options, Route, streamed
from junctor.streaming import AsyncStream
from junctor.transport import AsyncTransport


class _Caller:
    def __init__(self, transport: AsyncTransport, kind: str) -> None:
        self._transport = transport
        self._route = Route(kind)

    async def _call(self, method: str, path: str, name: str, body: Any, options: CallOptions) -> Any:
        return await self._transport.send(self._request(method, path, name, body, options))

    def _stream(
        self, method: str, path: str, name: str, body: Any, options: CallOptions
    ) -> AbstractAsyncContextManager[AsyncStream]:
        request = self._request(method, path, name, streamed(body), options, STREAM_ACCEPT)
        return self._transport.stream(request)

    def _request(
        self,
        method: str,
        path: str,
        name: str,
        body: Any,
        options: CallOptions,
        accept: Mapping[str, str] | None = None,
    ) -> Any:
        headers = {**(accept or {}), **(options.get("headers") or {})}
        workspace = options.get("workspace") or self._transport.options.settings.workspace
        extra = Options(options.get("params"), headers, options.get("timeout"))
        return self._route.request(method, path, workspace=workspace, name=name, body=body, options=extra)


class AsyncNamedRoute(_Caller):
    """The routes by model entity and by provider; ``name`` is the entity's or the provider's."""

    async def get(self, path: str, *, name: str, **options: Unpack[CallOptions]) -> Any:
        """GET ``path`` (``v1/models``)."""
        return await self._call("GET", path, name, None, options)

    async def post(self, path: str, *, name: str, body: Any = None, **options: Unpack[CallOptions]) -> Any:
        """POST ``body`` to ``path`` (``v1/chat/completions``)."""
        return await self._call("POST", path, name, body, options)

    async def put(self, path: str, *, name: str, body: Any = None, **options: Unpack[CallOptions]) -> Any:
        """PUT ``body`` to ``path``."""
        return await self._call("PUT", path, name, body, options)

    async def patch(self, path: str, *, name: str, body: Any = None, **options: Unpack[CallOptions]) -> Any:
        """PATCH ``path`` with ``body``."""
        return await self._call("PATCH", path, name, body, options)

    async def delete(self, path: str, *, name: str, body: Any = None, **options: Unpack[CallOptions]) -> Any:
        """DELETE ``path``."""
        return await self._call("DELETE", path, name, body, options)

    def stream(
        self, path: str, *, name: str, body: Any = None, method: str = "POST", **options: Unpack[CallOptions]
    ) -> AbstractAsyncContextManager[AsyncStream]:
        """Send ``body``, with ``"stream": true`` if it is an object; ``async with … as stream``, then iterate."""
        return self._stream(method, path, name, body, options)


class AsyncOpenAiRoute(_Caller):
    """The route by the ``model`` of the body (``workspace/name`` or ``name``)."""

    async def get(self, path: str, **options: Unpack[CallOptions]) -> Any:
        """GET ``path`` (``v1/models``)."""
        return await self._call("GET", path, "", None, options)

    async def post(self, path: str, *, body: Any = None, **options: Unpack[CallOptions]) -> Any:
        """POST ``body`` to ``path`` (``v1/chat/completions``)."""
        return await self._call("POST", path, "", body, options)

    async def put(self, path: str, *, body: Any = None, **options: Unpack[CallOptions]) -> Any:
        """PUT ``body`` to ``path``."""
        return await self._call("PUT", path, "", body, options)

    async def patch(self, path: str, *, body: Any = None, **options: Unpack[CallOptions]) -> Any:
        """PATCH ``path`` with ``body``."""
        return await self._call("PATCH", path, "", body, options)

    async def delete(self, path: str, *, body: Any = None, **options: Unpack[CallOptions]) -> Any:
        """DELETE ``path``."""
        return await self._call("DELETE", path, "", body, options)

    def stream(
        self, path: str, *, body: Any = None, method: str = "POST", **options: Unpack[CallOptions]
    ) -> AbstractAsyncContextManager[AsyncStream]:
        """Send ``body``, with ``"stream": true`` if it is an object; ``async with … as stream``, then iterate."""
        return self._stream(method, path, "", body, options)


class AsyncGateway:
    """The three routes."""

    def __init__(self, transport: AsyncTransport) -> None:
        self.model = AsyncNamedRoute(transport, "model")
        self.provider = AsyncNamedRoute(transport, "provider")
        self.openai = AsyncOpenAiRoute(transport, "openai")
