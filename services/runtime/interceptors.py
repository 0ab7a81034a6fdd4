"""What happens to every RPC, whatever its service: one async context manager per concern.

A concern is ``f(context, rpc)``; :class:`Chain` runs the ordered list of them (``server.create_server`` has
it) round handlers of all four kinds, so none is written twice. Requests are decoded inside the chain: bytes
that are not the method's message leave as INVALID_ARGUMENT like any other bad request. A servicer raises
:mod:`junctor.errors` and never touches status codes. Handlers are async; request streams are iterated over.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import isasyncgen
from typing import Any, TypeAlias

import grpc
from grpc_status import rpc_status

from junctor import status
from junctor.channel import REQUEST_ID, REQUEST_ID_KEY
from junctor.errors import InternalError, JunctorError, MalformedRequest, NotReady

logger = logging.getLogger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # not subscriptable at run time

_WRITE = re.compile(r"(Create(?!ChatCompletion|Completion|Embeddings)|Update|Delete|Replace|Set|Rotate)")
"""Names of methods that change a store; ``Inference`` creates answers, no resources."""
PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""gRFC A6: a number says when to retry, a negative one not to."""
_EXPECTED = frozenset((grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.CANCELLED))
"""Ends of a call without a write that are no news."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")


@dataclass(frozen=True, slots=True)
class Rpc:
    """The method of a call: ``/service/name``."""

    path: str
    service: str
    name: str

    @classmethod
    def parse(cls, path: str) -> Rpc:
        """Split ``/junctor.v1.Workspaces/GetWorkspace``."""
        service, _, name = path.lstrip("/").partition("/")
        return cls(path, service, name)

    @property
    def background(self) -> bool:
        """True for what machines ask all the time: always logged at debug."""
        return self.name.startswith("Watch") or self.name == "InvokeMany" or self.service.startswith("grpc.")

    @property
    def changes(self) -> bool:
        """True for writes: logged at info, while calls that change nothing are only when they fail."""
        return _WRITE.match(self.name) is not None

    @property
    def endless(self) -> bool:
        """True for streams that end only when somebody ends them: a drain does not wait for these."""
        return self.name.startswith("Watch") or self.name == "ServerReflectionInfo"


Concern = Callable[[Context, Rpc], AbstractAsyncContextManager[None]]
Judge = Callable[[Rpc, Any], None]
"""Looks at a decoded request before its handler does; raises what is to be answered instead."""


@dataclass(slots=True)
class CallInfo:
    """What is known of the running call; :func:`current_call` gives it to anything below."""

    request_id: str
    method: str
    deadline: float | None
    """``time.monotonic()`` at which the caller gives up; None: never."""
    principal: object | None = None
    """Who calls, set by the auth concern; None: nobody in particular."""
    workspaces: frozenset[str] | None = None
    """What there is for the caller: workspaces in which it has a role; None: every one."""
    workspace: str = ""
    """The one that the request is about, set by the auth judge; empty: none, or several."""
    counters: CallCounters | None = None
    """Where its end is counted."""
    draining: asyncio.Event | None = None
    """Set when the server begins to stop."""
    produced: object | None = None
    """What a streaming handler returned: its generator, which rests while a message of it is written."""


_CURRENT: ContextVar[CallInfo | None] = ContextVar("junctor_call", default=None)


def current_call() -> CallInfo | None:
    """Return the call that the running code serves; None outside of one."""
    return _CURRENT.get()


def sees(workspace: str) -> bool:
    """Tell whether a workspace is there for the caller of the running call; with nobody in particular it is."""
    info = _CURRENT.get()
    return info is None or info.workspaces is None or workspace in info.workspaces


def begin_call(path: str, request_id: str) -> None:
    """Make the running task one that serves a call of its own, which came within another one's stream."""
    outer = current_call()
    info = CallInfo(request_id, path, None)
    if outer is not None:
        info.principal, info.counters, info.draining = outer.principal, outer.counters, outer.draining
        info.workspaces = outer.workspaces
    _CURRENT.set(info)
    REQUEST_ID.set(request_id)


def end_call(code: grpc.StatusCode, seconds: float) -> None:
    """Count and log the end of a call that :func:`begin_call` began."""
    info = current_call()
    if info is not None and info.counters is not None:
        info.counters.ended[info.method, code.name] += 1
        _log_call(Rpc.parse(info.method), code, seconds)


def request_id_of(context: Context) -> str:
    """Return the caller's ``x-request-id`` if it is fit for a log line, else a new one."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex


@asynccontextmanager
async def call_context(context: Context, rpc: Rpc) -> AsyncIterator[None]:
    """Give the call its request id, deadline and principal slot; the id goes back in the trailers."""
    remaining = context.time_remaining()
    info = CallInfo(request_id_of(context), rpc.path, None if remaining is None else time.monotonic() + remaining)
    # No reset: grpc runs every call in a Context of its own, and the generator may be closed in another one.
    _CURRENT.set(info)
    REQUEST_ID.set(info.request_id)
    context.set_trailing_metadata(((REQUEST_ID_KEY, info.request_id),))
    yield


class CallCounters:
    """How many calls ended, by method and code. Made once per process; read by ``/metrics``."""

    def __init__(self) -> None:
        self.ended: Counter[tuple[str, str]] = Counter()
        """``(method path, code name)`` → number of calls."""
        self.running = 0
        """Calls in progress, endless ones included."""


def access_log(counters: CallCounters) -> Concern:
    """Log one line per RPC and count it: method, code, ms, request id."""

    @asynccontextmanager
    async def concern(context: Context, rpc: Rpc) -> AsyncIterator[None]:
        started = time.perf_counter()
        counters.running += 1
        if (info := current_call()) is not None:
            info.counters = counters
        code = grpc.StatusCode.OK
        try:
            yield
        except asyncio.CancelledError:
            # context.code() says nothing about a cancelled or expired call.
            remaining = context.time_remaining()
            expired = remaining is not None and remaining <= 0
            code = grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
            raise
        except BaseException:
            code = _code_of(context)
            raise
        finally:
            counters.running -= 1
            counters.ended[rpc.path, code.name] += 1
            _log_call(rpc, code, time.perf_counter() - started)

    return concern


def _log_call(rpc: Rpc, code: grpc.StatusCode, seconds: float) -> None:
    quiet = rpc.background or (code in _EXPECTED and not rpc.changes)
    level = logging.DEBUG if quiet else logging.INFO
    if logger.isEnabledFor(level):
        info = current_call()
        fields = {"method": rpc.path, "code": code.name, "ms": round(seconds * 1000, 3)}
        logger.log(level, "rpc", extra={**fields, "request_id": info.request_id if info else ""})


def _code_of(context: Context) -> grpc.StatusCode:
    # An aborted call has its code here, as the enum or as its number.
    code: object = context.code()
    if isinstance(code, grpc.StatusCode):
        return code
    return next((known for known in grpc.StatusCode if known.value[0] == code), grpc.StatusCode.UNKNOWN)


@asynccontextmanager
async def errors(context: Context, rpc: Rpc) -> AsyncIterator[None]:
    """Turn what was raised into a status, once; what is not ours to tell becomes INTERNAL without a word.

    Cancellation and grpc's own abort pass. An unknown exception is logged in full under the request id: grpc
    would send its class and text to the caller.
    """
    try:
        yield
    except JunctorError as error:
        await _abort(context, error)
    except grpc.aio.AbortError:
        raise
    except (Exception, asyncio.CancelledError) as error:
        if isinstance(error, asyncio.CancelledError) and _given_up():
            raise
        info = current_call()
        fields = {"method": rpc.path, "request_id": info.request_id if info else ""}
        logger.exception("unexpected error in %s", rpc.path, extra=fields)
        await _abort(context, InternalError("Internal error."))


def _given_up() -> bool:
    """Tell a call that its caller cancelled from one in which something else was: grpc would never answer that."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _abort(context: Context, error: JunctorError) -> None:
    told = rpc_status.to_status(status.to_status(error))
    kept = tuple(context.trailing_metadata() or ())
    # The abort replaces the trailers, so those set before (the request id) are carried over.
    await context.abort_with_status(told._replace(trailing_metadata=(*kept, *told.trailing_metadata)))


class Drain:
    """Ends calls when the server stops: endless streams at once, all others when the time for them is over.

    Both ends are statuses of ours. What grpc itself cancels is then only what no handler ever saw.
    """

    def __init__(self) -> None:
        self._endless: set[asyncio.Task[Any]] = set()
        self._others: set[asyncio.Task[Any]] = set()
        self._draining = False
        self._expired = False
        self._begun = asyncio.Event()

    @asynccontextmanager
    async def concern(self, context: Context, rpc: Rpc) -> AsyncIterator[None]:
        """Run the call; if the drain cuts it, it ends as UNAVAILABLE, which tells clients to go elsewhere."""
        task = asyncio.current_task()
        if task is None:
            yield
            return
        if rpc.endless and self._draining:
            raise _draining(retry_after=1.0)
        if (info := current_call()) is not None:
            info.draining = self._begun
        mine = self._endless if rpc.endless else self._others
        mine.add(task)
        try:
            yield
        except asyncio.CancelledError:
            cut = self._draining if rpc.endless else self._expired
            if not (cut and task.cancelling()):
                raise
            task.uncancel()
            if rpc.endless:
                raise _draining(retry_after=1.0) from None
            kept = tuple(context.trailing_metadata() or ())
            context.set_trailing_metadata((*kept, (PUSHBACK_KEY, "-1")))  # it has done something already
            raise _draining() from None
        finally:
            mine.discard(task)

    def begin(self) -> None:
        """Cut every endless stream, and refuse new ones."""
        self._draining = True
        self._begun.set()
        for task in tuple(self._endless):
            task.cancel()

    def expire(self) -> None:
        """Cut every call."""
        self.begin()
        self._expired = True
        for task in tuple(self._others):
            task.cancel()


def _draining(retry_after: float | None = None) -> NotReady:
    return NotReady("The server is shutting down.", retry_after=retry_after)


class Chain(grpc.aio.ServerInterceptor):
    """Runs the concerns, outermost first, round every handler, and the judges on every decoded request."""

    def __init__(self, concerns: Sequence[Concern], judges: Sequence[Judge] = ()) -> None:
        self._concerns = tuple(concerns)
        self._judges = tuple(judges)
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap the handler. Nothing is checked here: what is raised here reaches the client as it is."""
        path = handler_call_details.method
        known = self._wrapped.get(path)
        if known is not None:
            return known
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # not a method of ours: grpc answers UNIMPLEMENTED, and nothing is kept
        return self._wrapped.setdefault(path, self._wrap(handler, Rpc.parse(path)))

    def _wrap(self, handler: Handler, rpc: Rpc) -> Handler:
        decode = _decoder(handler, rpc, self._judges)
        if handler.response_streaming:
            return self._wrap_stream(handler, rpc, decode)
        return self._wrap_unary(handler, rpc, decode)

    def _wrap_unary(self, handler: Handler, rpc: Rpc, decode: Callable[[Any], Any]) -> Handler:
        behaviour: Any = handler.stream_unary if handler.request_streaming else handler.unary_unary
        encode = handler.response_serializer or bytes

        async def unary(request: Any, context: Context) -> bytes:
            async with AsyncExitStack() as stack:
                for concern in self._concerns:
                    await stack.enter_async_context(concern(context, rpc))
                return encode(await behaviour(decode(request), context))
            raise AssertionError("no concern swallows exceptions")

        make = (
            grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        )
        return make(unary)

    def _wrap_stream(self, handler: Handler, rpc: Rpc, decode: Callable[[Any], Any]) -> Handler:
        behaviour: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def stream(request: Any, context: Context) -> None:
            async with AsyncExitStack() as stack:
                for concern in self._concerns:
                    await stack.enter_async_context(concern(context, rpc))
                produced = behaviour(decode(request), context)
                if (info := current_call()) is not None:
                    info.produced = produced
                await _pump(produced, context)

        # A coroutine that writes, even round a generator: grpc leaves the generator of a cancelled call to
        # the garbage collector, here it is closed at once.
        make: Any = (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )
        wrapped: Handler = make(stream, response_serializer=handler.response_serializer)
        return wrapped


async def _pump(produced: Any, context: Context) -> None:
    if not isasyncgen(produced):
        await produced  # writes for itself
        return
    async with aclosing(produced):
        async for message in produced:
            await context.write(message)


def _decoder(handler: Handler, rpc: Rpc, judges: Sequence[Judge]) -> Callable[[Any], Any]:
    decode = handler.request_deserializer or (lambda data: data)

    def one(data: bytes) -> Any:
        try:
            message = decode(data)
        except Exception as error:
            raise MalformedRequest("The request is not a message of this method.") from error
        for judge in judges:
            judge(rpc, message)
        return message

    async def each(stream: AsyncIterator[bytes]) -> AsyncGenerator[Any, None]:
        async for data in stream:
            yield one(data)

    return each if handler.request_streaming else one
