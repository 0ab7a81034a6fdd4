"""Streams that run for long go on only while their caller may have them: a revoked key does not watch for ever.

Twice a second a running stream's caller is looked up again, which costs two look-ups in memory while nothing has
changed. Who has lost the credential or the permission is told so; who sees other workspaces than at the start has to
start again, because a stream cannot say what it has left out until now.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from inspect import isasyncgen

from junctor.errors import InternalError, JunctorError, WatchExpired
from services.access.identity import Caller
from services.runtime.interceptors import CallInfo

LOOK_SECONDS = 0.5
_WRITE_SECONDS = 0.02

_log = logging.getLogger(__name__)

Renew = Callable[[], Awaitable[Caller]]
"""Returns who calls as of now. Raises Unauthenticated, NotReady."""
Rejudge = Callable[[CallInfo, Caller], None]
"""Sets what the caller sees, as at the start of the call. Raises PermissionDenied."""


@asynccontextmanager
async def while_allowed(info: CallInfo, renew: Renew, rejudge: Rejudge) -> AsyncIterator[None]:
    """Run a stream in the current task; it ends with what ``renew`` or ``rejudge`` raise, or with WatchExpired."""
    task, ended = asyncio.current_task(), list[JunctorError]()
    assert task is not None

    async def look() -> None:
        while not ended:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                _look_again(info, await renew(), rejudge)
            except JunctorError as error:
                ended.append(error)
            except Exception:  # noqa: BLE001 - nobody goes on by a fault
                _log.exception("a running stream's caller could not be judged")
                ended.append(InternalError("Internal error."))
        info.workspaces = frozenset()
        while _is_writing(info):  # noqa: ASYNC110 - a generator tells nobody that it goes on
            await asyncio.sleep(_WRITE_SECONDS)
        task.cancel()

    looking = asyncio.create_task(look())
    try:
        yield
    except asyncio.CancelledError:
        if not ended or not task.cancelling():
            raise
        task.uncancel()
        raise ended[0] from None
    finally:
        looking.cancel()


def _is_writing(info: CallInfo) -> bool:
    """Tell whether a message is on its way: a call that is cut then cannot tell its status any more."""
    return isasyncgen(info.produced) and not info.produced.ag_running


def _look_again(info: CallInfo, caller: Caller, rejudge: Rejudge) -> None:
    if caller is info.principal:
        return
    seen = info.workspaces
    info.principal = caller
    rejudge(info, caller)
    if info.workspaces != seen:
        raise WatchExpired("What you may see has changed; start again without resume_token")
