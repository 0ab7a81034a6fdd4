"""What one process may take over from another of its kind: opaque parts, each with how new it is.

Whoever keeps state by Watch (the router its catalog, access its keys) makes a :class:`StatePart` of it. Parts travel
between routers (``inference_router.peer_copies``), which knows nothing of what is in them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Version:
    """How new a part is."""

    epoch: str
    """Names the store that it is of (what Watch tokens begin with); empty: not known."""
    revision: int
    """Of that store; revisions of different epochs cannot be compared."""
    as_of: float
    """UNIX time at which the store's service was last heard of, by whoever had the part then."""

    def newer_than(self, other: Version) -> bool:
        """Tell whether this one should take the place of the other.

        Of one store the revision decides, whatever clocks say; else the time, as a store that was made anew counts
        from 1 again.
        """
        if self.epoch and self.epoch == other.epoch:
            return self.revision > other.revision
        return self.as_of > other.as_of


@dataclass(frozen=True, slots=True)
class Part:
    """A copy of a part."""

    name: str
    version: Version
    data: bytes = field(repr=False)
    """It may hold values of secrets."""


class PartRefused(Exception):
    """The bytes are not what the part's name says; nothing of them was taken."""


class StatePart(Protocol):
    """One kind of state. All methods run in the owner's event loop."""

    @property
    def name(self) -> str:
        """Name of the part, one for all releases."""

    def version(self) -> Version | None:
        """Return how new what is held is; None: nothing whole is held."""

    def wanted(self) -> bool:
        """Tell whether a copy could be of use: not once the owner's own source has spoken."""

    async def give(self) -> Part:
        """Return a copy of what is held. Call it only while :meth:`version` is not None."""

    async def take(self, part: Part) -> bool:
        """Put a copy in the place of what is held, if it is still wanted and newer; tell whether that was done.

        Raises PartRefused.
        """


def epoch_of(token: str) -> str:
    """Return the epoch of a Watch token; empty for one without."""
    return token.partition(".")[0] if "." in token else ""
