"""The one place at which an inference request is known to be over: what happened, told once to whoever asked for it.

Metrics, traces, the log and usage records all hang on :class:`Hooks`. A router tells each call once: when it was
answered, failed, was cancelled by its caller or broke off, on the direct way and over gRPC. It tells after the sink has
had its end, so nothing here delays an answer; hooks run on the event loop, must not block, and share 4 µs a request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from junctor import errors
from junctor.errors import DOMAIN, JunctorError
from services.runtime.exchange import Attempt, Call, Usage

FAILED: Final = "failed"
"""Verdict of a call that ended with an error before an answer began."""
CANCELLED: Final = "cancelled"
"""Verdict of a call whose caller left, before or after its answer began."""
PROVIDER: Final = "provider"
"""Error source: a provider answered with an error, could not be reached, or broke its answer off."""
GATEWAY: Final = "gateway"
"""Error source: junctor could not serve the call, or its limit of time ran out."""
CALLER: Final = "caller"
"""Error source: the request was at fault or not allowed, or its caller left."""

_CALLERS_FAULT = (
    errors.InvalidArgument,
    errors.NotFound,
    errors.Unauthenticated,
    errors.PermissionDenied,
    errors.LimitExceeded,
    errors.TooLarge,
    errors.NotSupported,
)
_OPERATIONS: Final = {
    b"chat/completions": "chat",
    b"responses": "chat",
    b"messages": "chat",
    b"completions": "completion",
    b"embeddings": "embeddings",
}
KINDS: Final[Mapping[bytes, str]] = MappingProxyType(
    {prefix + path: kind for path, kind in _OPERATIONS.items() for prefix in (b"", b"v1/")}
)
"""What a call is for, by its path; any other is ``other``."""

_log = logging.getLogger(__name__)


class Finished(msgspec.Struct, frozen=True):
    """One inference request that has ended. Lives as long as the hooks run.

    A hook that keeps anything copies what it needs: ``call`` has the body, ``error`` a traceback.
    """

    call: Call
    """Has ``request_id``, ``principal``, ``workspace`` (of the URL), ``route``, ``method``, ``path``, ``tags``."""
    virtual_model: str = ""
    """``workspace/name`` that was called; empty on a call by provider, or if nothing of that name was found."""
    entity: str = ""
    """``workspace/name`` of the model entity of the last attempt; empty as above."""
    provider: str = ""
    """``workspace/name`` of the provider of the last attempt; empty if none was tried."""
    upstream_model: str = ""
    """Its name of the model, from the catalog; empty on a call by provider."""
    streams: bool = False
    """The caller asked for a stream, or got one."""
    status: int = 0
    """HTTP status of the provider's answer that was passed on; 0: none was."""
    verdict: str = FAILED
    """A value of :class:`services.runtime.exchange.Verdict`, or FAILED."""
    source: str = ""
    """PROVIDER, GATEWAY or CALLER if the caller got no good answer; else empty."""
    error: JunctorError | None = None
    """Why there is no complete answer. None for a provider's own error (its ``status`` says it) and if cancelled."""
    attempts: tuple[Attempt, ...] = ()
    usage: Usage | None = None
    """What the provider reported, also of a broken or cancelled answer as far as it was seen; None: nothing."""
    queue_seconds: float = 0.0
    """Waited for slots of providers with ``max_concurrency``, all attempts together."""
    connect_seconds: float = 0.0
    """Spent on new connections to providers, all attempts together; 0: each had one already."""
    first_byte_seconds: float | None = None
    """From the call's begin to the first byte of the provider's answer, pings left out. None: there was none."""
    upstream_seconds: float = 0.0
    """Spent with providers, all attempts together."""
    total_seconds: float = 0.0
    trace: object | None = None
    """A :class:`services.runtime.tracing.Trace` if the call is traced."""
    answer_bytes: int = 0
    """About how many bytes of the answer's body came from the provider; 0 where ``usage`` says more."""

    @property
    def kind(self) -> str:
        """``chat``, ``completion``, ``embeddings`` or ``other``, by the path."""
        return KINDS.get(self.call.path, "other")

    @property
    def ok(self) -> bool:
        """The caller got a whole answer that is no error."""
        return not self.source


Hook = Callable[[Finished], None]


class Hooks:
    """Whoever wants to hear of ended calls. One for each router."""

    __slots__ = ("_failing", "_hooks")

    def __init__(self) -> None:
        self._hooks: list[Hook] = []
        self._failing: set[Hook] = set()

    def add(self, hook: Hook) -> None:
        """Have ``hook`` hear of every call that ends from now on."""
        self._hooks.append(hook)

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def tell(self, finished: Finished) -> None:
        """Tell every hook; one that fails hurts neither the call nor the others, and is logged the first time."""
        for hook in self._hooks:
            try:
                hook(finished)
            except Exception:  # noqa: BLE001 - the call and the other hooks go on
                if hook not in self._failing:
                    self._failing.add(hook)
                    _log.exception("a hook failed", extra={"request_id": finished.call.request_id})


def source_of(error: JunctorError) -> str:
    """Tell whose fault it is that a call failed."""
    if error.domain != DOMAIN:
        return PROVIDER
    unready = isinstance(error, errors.ProviderNotReady)
    return CALLER if isinstance(error, _CALLERS_FAULT) and not unready else GATEWAY
