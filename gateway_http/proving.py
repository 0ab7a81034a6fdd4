"""Who calls on one connection: a look-up for a credential that is known, else a task while the request waits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gateway_http.gate import Gate
from gateway_http.limits import RequestHead
from junctor.errors import InternalError, JunctorError
from services.access.identity import Caller

_log = logging.getLogger(__name__)


class Proving:
    """The gate as one connection uses it. ``done`` is called when a request that had to wait can be read again."""

    __slots__ = ("_done", "_gate", "_proven", "_task")

    def __init__(self, gate: Gate, done: Callable[[], None]) -> None:
        self._gate = gate
        self._done = done
        self._task: asyncio.Task[None] | None = None
        self._proven: tuple[str, Caller | JunctorError] | None = None

    @property
    def pending(self) -> bool:
        """A request waits."""
        return self._task is not None

    def admit(self, head: RequestHead) -> Caller | None:
        """Return who calls; None: the request has to wait. Raises Unauthenticated, NotReady."""
        proven, self._proven = self._proven, None
        caller = self._gate.admit(head)
        if isinstance(caller, Caller):
            return caller
        if proven is not None and proven[0] == caller:
            if isinstance(proven[1], JunctorError):
                raise proven[1]
            return proven[1]
        self._task = asyncio.get_running_loop().create_task(self._prove(caller))
        return None

    def told(self, head: RequestHead, error: JunctorError, request_id: str) -> None:
        """Take note of a request that :meth:`admit` refused."""
        self._gate.told(head.method, head.target.partition(b"?")[0], error, request_id=request_id)

    def cancel(self) -> None:
        """The connection is lost."""
        if self._task is not None:
            self._task.cancel()

    async def _prove(self, credential: str) -> None:
        try:
            self._proven = (credential, await self._gate.prove(credential))
        except JunctorError as error:
            self._proven = (credential, error)
        except Exception:  # noqa: BLE001 - nobody is let in by a fault
            _log.exception("a credential could not be judged")
            self._proven = (credential, InternalError("Internal error"))
        self._task = None
        self._done()
