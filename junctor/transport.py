"""The two transports: a :class:`~junctor.request.Request` over httpx, sync and async, and nothing else.

What both do alike (headers, retries, errors) is in the pure functions that they share; only what must wait is
written twice.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import httpx

from junctor import http_errors, trust, urls
from junctor.config import Settings
from junctor.errors import JunctorError
from junctor.request import Answer, Request
from junctor.retries import RetryPolicy
from junctor.streaming import AsyncStream, Stream

T = TypeVar("T")

CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 600.0
"""Longest silence: above the server's own 300 s for a first byte, so that the server speaks first."""

_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True)
class Options:
    """What both transports need. ``timeout`` is the longest silence in seconds."""

    settings: Settings
    timeout: float = ANSWER_SECONDS
    policy: RetryPolicy = field(default_factory=RetryPolicy)

    @property
    def where(self) -> str:
        """The address as errors show it."""
        return urls.shown(urls.checked(self.settings.base_url))

    def new_client(self, kind: Callable[..., T]) -> T:
        """Make the HTTP client. A proxy of the environment is for the world outside, never for this machine."""
        url = urls.checked(self.settings.base_url)
        options: dict[str, Any] = {"trust_env": not urls.is_loopback(url.hostname), "timeout": self._timeout(None)}
        if self.settings.ca_file and url.scheme == "https":
            options["verify"] = trust.context(self.settings.ca_file)
        return kind(**options)

    def build(self, client: httpx.Client | httpx.AsyncClient, request: Request[Any]) -> httpx.Request:
        """Write the request; its id is the same in every attempt."""
        headers = {**urls.identity(self.settings), "x-request-id": uuid.uuid4().hex, "accept": "application/json"}
        if request.body is not None:
            headers["content-type"] = "application/json"
        return client.build_request(
            request.method,
            httpx.URL(f"{self.settings.base_url}/{request.path}"),
            params={key: value for key, value in request.query.items() if value is not None} or None,
            headers={**headers, **{name.lower(): value for name, value in request.headers.items()}},
            content=request.body,
            timeout=self._timeout(request.timeout),
        )

    def _timeout(self, seconds: float | None) -> httpx.Timeout:
        silence = self.timeout if seconds is None else seconds
        return httpx.Timeout(silence, connect=min(silence, CONNECT_SECONDS))

    def failed(self, error: httpx.TransportError, built: httpx.Request) -> JunctorError:
        """Build the error of a call without an answer."""
        request_id = built.headers["x-request-id"]
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, _UNSENT):
            return http_errors.unreachable(self.where, request_id, timed_out=True)
        if isinstance(error, _UNSENT):
            return http_errors.unreachable(self.where, request_id, cause=str(error))
        return http_errors.broken(self.where, request_id)

    def refused(self, response: httpx.Response, body: bytes) -> JunctorError:
        """Build the error of an answer that is no success."""
        request_id = response.request.headers["x-request-id"]
        return http_errors.from_answer(response.status_code, response.headers, body, request_id)

    def wait_after(self, attempt: int, response: httpx.Response) -> float | None:
        """Return the wait before the next attempt after an answer that is no success, None for no more."""
        return self.policy.after_answer(attempt, response.status_code, response.headers, random.random())  # noqa: S311

    def wait_without(self, attempt: int, error: httpx.TransportError, built: httpx.Request) -> float | None:
        """The same after no answer."""
        sent = not isinstance(error, _UNSENT)
        return self.policy.after_failure(attempt, built.method, random.random(), sent=sent)  # noqa: S311


def _answer(response: httpx.Response, body: bytes) -> Answer:
    return Answer(response.status_code, response.headers, body)


class Transport:
    """Sends and waits."""

    def __init__(self, options: Options, client: httpx.Client | None = None) -> None:
        self.options = options
        self._own = client is None
        self._client = client or options.new_client(httpx.Client)

    def send(self, request: Request[T]) -> T:
        """Send a request and read its answer. Raises JunctorError."""
        response = self._open(request)
        try:
            body = response.read()
        except httpx.TransportError as error:
            raise self.options.failed(error, response.request) from error
        finally:
            response.close()
        return request.read(_answer(response, body))

    @contextmanager
    def stream(self, request: Request[Any]) -> Iterator[Stream]:
        """Send a request and hand out its answer as it comes; leaving the block stops the answer."""
        response = self._open(request)
        try:
            yield Stream(response, self.options.where)
        finally:
            response.close()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def close(self) -> None:
        """Close the connections, unless the HTTP client is the caller's."""
        if self._own:
            self._client.close()

    def _open(self, request: Request[Any]) -> httpx.Response:
        built = self.options.build(self._client, request)
        attempt = 0
        while True:
            try:
                response = self._client.send(built, stream=True)
            except httpx.TransportError as error:
                wait = self.options.wait_without(attempt, error, built)
                if wait is None:
                    raise self.options.failed(error, built) from error
            else:
                if response.is_success:
                    return response
                wait = self.options.wait_after(attempt, response)
                body = b""
                with closing(response), suppress(httpx.TransportError):
                    body = response.read()
                if wait is None:
                    raise self.options.refused(response, body)
            self.sleep(wait)
            attempt += 1


class AsyncTransport:
    """Sends and awaits. Cancelling a call closes its connection, so the server stops too."""

    def __init__(self, options: Options, client: httpx.AsyncClient | None = None) -> None:
        self.options = options
        self._own = client is None
        self._client = client or options.new_client(httpx.AsyncClient)

    async def send(self, request: Request[T]) -> T:
        """Send a request and read its answer. Raises JunctorError."""
        response = await self._open(request)
        try:
            body = await response.aread()
        except httpx.TransportError as error:
            raise self.options.failed(error, response.request) from error
        finally:
            await response.aclose()
        return request.read(_answer(response, body))

    @asynccontextmanager
    async def stream(self, request: Request[Any]) -> AsyncIterator[AsyncStream]:
        """Send a request and hand out its answer as it comes; leaving the block stops the answer."""
        response = await self._open(request)
        try:
            yield AsyncStream(response, self.options.where)
        finally:
            await response.aclose()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Close the connections, unless the HTTP client is the caller's."""
        if self._own:
            await self._client.aclose()

    async def _open(self, request: Request[Any]) -> httpx.Response:
        built = self.options.build(self._client, request)
        attempt = 0
        while True:
            try:
                response = await self._client.send(built, stream=True)
            except httpx.TransportError as error:
                wait = self.options.wait_without(attempt, error, built)
                if wait is None:
                    raise self.options.failed(error, built) from error
            else:
                if response.is_success:
                    return response
                wait = self.options.wait_after(attempt, response)
                body = b""
                async with aclosing(response):
                    with suppress(httpx.TransportError):
                        body = await response.aread()
                if wait is None:
                    raise self.options.refused(response, body)
            await self.sleep(wait)
            attempt += 1
