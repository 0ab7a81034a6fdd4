"""The access book as a part of what a router takes over from another one: it lets callers in while all else is down."""

from __future__ import annotations

from typing import Final

from services.access.keeper import AccessKeeper
from services.access.saved import BookFile
from services.runtime.state_parts import Part, PartRefused, Version

NAME: Final = "access"


class AccessPart:
    """A :class:`~services.runtime.state_parts.StatePart` of a keeper's book; ``file`` knows how it is written."""

    def __init__(self, keeper: AccessKeeper, file: BookFile) -> None:
        self._keeper = keeper
        self._file = file

    @property
    def name(self) -> str:
        """One for all releases."""
        return NAME

    def version(self) -> Version | None:
        """Return how new the book is; None before there is one."""
        return Version("", 0, self._keeper.heard_at) if self._keeper.loaded else None

    def wanted(self) -> bool:
        """Tell whether access_control has yet to be heard."""
        return not self._keeper.synced

    async def give(self) -> Part:
        """Return a copy of the book."""
        return Part(NAME, Version("", 0, self._keeper.heard_at), self._file.encode(self._keeper.snapshot()))

    async def take(self, part: Part) -> bool:
        """Take a book that was true later than this one. Raises PartRefused."""
        saved = self._file.decode(part.data)
        if saved is None:
            raise PartRefused("the access book is of another service token or altered")
        return self._keeper.adopt(saved)
