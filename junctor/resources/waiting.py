"""When waiting for a provider or the gateway is over: the rules that both clients share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from junctor import names
from junctor.errors import NotFound, NotReady, ProviderNotReady, Unavailable, UpstreamError
from junctor.records import Provider

INTERVAL: Final = 0.2
"""Seconds between two looks."""
_GIVEN_UP: Final = frozenset(("ERROR", "LOST", "DELETING", "DELETED"))


def provider_ready(provider: Provider) -> bool:
    """Tell whether the registry calls it ready; raises ProviderNotReady when waiting will not help."""
    if provider.status in _GIVEN_UP:
        raise ProviderNotReady(_said(provider))
    return provider.status == "READY"


@dataclass(frozen=True, slots=True)
class Wait:
    """A wait that ends at ``until``, a monotonic time."""

    until: float

    def check(self, provider: Provider, now: float) -> None:
        """Raise ProviderNotReady when the time is over."""
        if now >= self.until:
            raise ProviderNotReady(_said(provider))


@contextmanager
def not_yet() -> Iterator[None]:
    """Let an answer that means "ask again" pass: not found, or not available now."""
    try:
        yield
    except (NotFound, Unavailable):
        pass


@contextmanager
def gateway_answers(*, last: bool) -> Iterator[None]:
    """The same for the gateway's health; the ``last`` time raises NotReady."""
    try:
        yield
    except (Unavailable, UpstreamError) as error:
        if last:
            raise NotReady(f"The gateway is not ready: {error}", metadata=error.metadata) from error


def _said(provider: Provider) -> str:
    why = f": {provider.status_message}" if provider.status_message else ""
    return f"Provider {names.join(provider.workspace, provider.name)} is {provider.status}{why}"
