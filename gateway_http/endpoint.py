"""One path of the REST surface: picks the handler by method, reads the body within its limit, writes answers.

Every failure becomes an envelope of ``gateway_http.errors`` here, so no handler and no app-wide exception handler
deals with one.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway_http import errors
from gateway_http.limits import Limits
from gateway_http.options import usable_id
from gateway_http.translate import BadBody, dumps, loads
from junctor.channel import REQUEST_ID
from junctor.errors import InternalError, InvalidField, JunctorError, TooLarge

BODY_LIMIT = Limits().other_body
_ECHO_LIMIT = 4096
"""Bytes of a refused value that is shown again."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Call:
    """One request to a registry route."""

    path: Mapping[str, str]
    query: list[tuple[str, str]]
    read: Callable[[], Awaitable[bytes]]
    body: dict[str, Any] = field(default_factory=dict)
    """What :meth:`content` read, for the ``input`` of refusals."""

    async def content(self) -> dict[str, Any]:
        """Return the body, a JSON object. Raises InvalidField, TooLarge."""
        self.body = loads(await self.read())
        return self.body

    def parameter(self, name: str) -> str:
        """Return a query parameter; empty when it is not given."""
        return dict(self.query).get(name, "")


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, JSON content (None: no body) and further headers."""

    status: int
    content: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Call], Awaitable[Answer]]


def route(path: str, *, echoes: bool = True, **handlers: Handler) -> Route:
    """Serve ``path`` with one handler for each method (``GET=…``); other methods, HEAD too, are 405.

    ``echoes`` False: a refusal does not repeat what was sent, because it may hold a secret, under any key.
    """
    return Route(path, endpoint=Endpoint(handlers, echoes=echoes))


class Endpoint:
    """The ASGI application of one path."""

    def __init__(self, handlers: Mapping[str, Handler], *, echoes: bool) -> None:
        self._handlers = dict(handlers)
        self._echoes = echoes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        handler = self._handlers.get(request.method)
        if handler is None:
            allow = ", ".join(self._handlers).encode()
            await _send(send, errors.refusal(405, "Method Not Allowed", headers=[(b"allow", allow)]))
            return
        request_id = request_id_of(scope)
        REQUEST_ID.set(request_id)  # uvicorn runs each request in a task, whose context ends with it
        call = Call(request.path_params, request.query_params.multi_items(), lambda: _read(request))
        try:
            response = _written(await handler(call))
        except ClientDisconnect:
            return
        except JunctorError as error:
            response = self._refused(error, call)
        except Exception:  # noqa: BLE001 - the last resort: logged in full, shown without text
            extra = {"path": scope["path"], "method": request.method, "request_id": request_id}
            _log.exception("a registry route failed", extra=extra)
            response = errors.to_response(InternalError("Internal error"), registry=True)
        response.headers.append((b"x-request-id", request_id.encode()))
        await _send(send, response)

    def _refused(self, error: JunctorError, call: Call) -> errors.Response:
        response = errors.to_response(error, registry=True)
        content = json.loads(response.body)
        if not isinstance(error, InvalidField) or not isinstance(content["detail"], list):
            return response
        kinds = error.kinds if isinstance(error, BadBody) else ()
        for index, entry in enumerate(content["detail"]):
            if index < len(kinds):
                entry["type"] = kinds[index]
            if self._echoes:
                entry.update(_input(entry["loc"], call))
        return response._replace(body=dumps(content))


def request_id_of(scope: Scope) -> str:
    """Return the caller's ``x-request-id`` if it may be kept, else a new one."""
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return given.decode() if usable_id(given) else f"req-{uuid.uuid4().hex}"


def _input(loc: list[str | int], call: Call) -> dict[str, Any]:
    """Return as ``input`` what was given at ``loc``, or the nearest object around it when it is missing.

    Nothing when it is long, or when no JSON can hold it (it was refused for that).
    """
    place, *steps = loc
    found: Any = call.body if place == "body" else dict(call.query)
    for step in steps:
        try:
            found = found[step]
        except (KeyError, IndexError, TypeError):
            break
    try:
        return {"input": found} if len(dumps(found)) <= _ECHO_LIMIT else {}
    except (ValueError, RecursionError):
        return {}


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_LIMIT:
            raise TooLarge(f"The request body is larger than {BODY_LIMIT} bytes")
    return bytes(body)


def _written(answer: Answer) -> errors.Response:
    headers = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
    if answer.content is None:
        return errors.Response(answer.status, headers, b"")
    return errors.Response(answer.status, [(b"content-type", b"application/json"), *headers], dumps(answer.content))


async def _send(send: Send, response: errors.Response) -> None:
    headers = list(response.headers)
    if response.status != 204:
        headers.append((b"content-length", b"%d" % len(response.body)))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
