"""The gate in front of an ASGI app: in front of all but inference, and on another server than ours of that as well."""

from __future__ import annotations

import logging
from typing import Any

from gateway_http import errors
from gateway_http.asgi import Receive, Scope, Send, send_response
from gateway_http.endpoint import request_id_of
from gateway_http.gate import Gate
from junctor.channel import CALLER
from junctor.errors import InternalError, JunctorError
from services.access.credentials import required

_log = logging.getLogger(__name__)


class GatedApp:
    """Asks for a credential in front of an ASGI app, and says in the context for whom its calls are."""

    def __init__(self, app: Any, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = _raw_path(scope)
        if not self._gate.is_open(path):
            request_id = request_id_of(scope)
            own = [(b"x-request-id", request_id.encode())]
            try:
                shown = required((name.lower(), value) for name, value in scope["headers"])
                caller = await self._gate.prove(shown)
            except JunctorError as error:
                self._gate.told(scope["method"].encode(), path, error, request_id=request_id)
                await send_response(send, errors.to_response(error), own)
                return
            except Exception:  # noqa: BLE001 - nobody is let in by a fault
                _log.exception("a credential could not be judged")
                await send_response(send, errors.to_response(InternalError("Internal error")), own)
                return
            scope["junctor.caller"] = caller
            CALLER.set(self._gate.acting(caller))  # each request has a task of its own, whose context ends with it
        await self._app(scope, receive, send)


def _raw_path(scope: Scope) -> bytes:
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.partition(b"?")[0]
