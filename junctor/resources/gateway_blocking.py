"""``client.inference.gateway``: calls through the gateway, answered as the provider answers.

Twin of :mod:`junctor.resources.gateway_awaited`. A JSON answer comes decoded, another as bytes; a refusal raises
:class:`~junctor.errors.JunctorError`. ``workspace`` is the client's unless given.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, TypedDict, Unpack

from junctor.resources.routes import STREAM_ACCEPT, Options, Route, streamed
from junctor.streaming import Stream
from junctor.transport import Transport


class CallOptions(TypedDict, total=False):
    """What every gateway call takes beside path and body. ``timeout``: seconds of silence."""

    workspace: str | None
    params: Mapping[str, str | int | None] | None
    headers: Mapping[str, str] | None
    timeout: float | None


class _Caller:
    def __init__(self, transport: Transport, kind: str) -> None:
        self._transport = transport
        self._route = Route(kind)

    def _call(self, method: str, path: str, name: str, body: Any, options: CallOptions) -> Any:
        return self._transport.send(self._request(method, path, name, body, options))

    def _stream(
        self, method: str, path: str, name: str, body: Any, options: CallOptions
    ) -> AbstractContextManager[Stream]:
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


class NamedRoute(_Caller):
    """The routes by model entity and by provider; ``name`` is the entity's or the provider's."""

    def get(self, path: str, *, name: str, **options: Unpack[CallOptions]) -> Any:
        """GET ``path`` (``v1/models``)."""
        return self._call("GET", path, name, None, options)

    def post(self, path: str, *, name: str, body: Any = None, **options: Unpack[CallOptions]) -> Any:
        """POST ``body`` to ``path`` (``v1/chat/completions``)."""
        return self._call("POST", path, name, body, options)

    def put(self, path: str, *, name: str, body: Any = None, **options: Unpack[CallOptions]) -> Any:
        """PUT ``body`` to ``path``."""
        return self._call("PUT", path, name, body, options)

    def patch(self, path: str, *, name: str, body: Any = None, **options: Unpack[CallOptions]) -> Any:
        """PATCH ``path`` with ``body``."""
        return self._call("PATCH", path, name, body, options)

    def delete(self, path: str, *, name: str, body: Any = None, **options: Unpack[CallOptions]) -> Any:
        """DELETE ``path``."""
        return self._call("DELETE", path, name, body, options)

    def stream(
        self, path: str, *, name: str, body: Any = None, method: str = "POST", **options: Unpack[CallOptions]
    ) -> AbstractContextManager[Stream]:
        """Send ``body``, with ``"stream": true`` if it is an object; ``with … as stream``, then iterate."""
        return self._stream(method, path, name, body, options)


class OpenAiRoute(_Caller):
    """The route by the ``model`` of the body (``workspace/name`` or ``name``)."""

    def get(self, path: str, **options: Unpack[CallOptions]) -> Any:
        """GET ``path`` (``v1/models``)."""
        return self._call("GET", path, "", None, options)

    def post(self, path: str, *, body: Any = None, **options: Unpack[CallOptions]) -> Any:
        """POST ``body`` to ``path`` (``v1/chat/completions``)."""
        return self._call("POST", path, "", body, options)

    def put(self, path: str, *, body: Any = None, **options: Unpack[CallOptions]) -> Any:
        """PUT ``body`` to ``path``."""
        return self._call("PUT", path, "", body, options)

    def patch(self, path: str, *, body: Any = None, **options: Unpack[CallOptions]) -> Any:
        """PATCH ``path`` with ``body``."""
        return self._call("PATCH", path, "", body, options)

    def delete(self, path: str, *, body: Any = None, **options: Unpack[CallOptions]) -> Any:
        """DELETE ``path``."""
        return self._call("DELETE", path, "", body, options)

    def stream(
        self, path: str, *, body: Any = None, method: str = "POST", **options: Unpack[CallOptions]
    ) -> AbstractContextManager[Stream]:
        """Send ``body``, with ``"stream": true`` if it is an object; ``with … as stream``, then iterate."""
        return self._stream(method, path, "", body, options)


class Gateway:
    """The three routes."""

    def __init__(self, transport: Transport) -> None:
        self.model = NamedRoute(transport, "model")
        self.provider = NamedRoute(transport, "provider")
        self.openai = OpenAiRoute(transport, "openai")
