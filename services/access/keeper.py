"""Keeps the access book of a process: from disk at the start, by Watch ever after, back to disk when it changes.

While access_control is away the book goes on as it is, for as long as a setting allows; then nobody is let in who was
not proven by somebody else. A process that meets a key it does not know asks, once for all who wait, whether it is
behind: a key works as soon as the call that made it has returned.
"""

from __future__ import annotations

import asyncio
import logging
import time

from junctor.channel import Peer
from junctor.errors import JunctorError
from junctor.v1 import access_pb2 as pb
from junctor.v1 import access_pb2_grpc
from services.access.book import AccessBook
from services.access.saved import BookFile, SavedBook
from services.runtime.following import Follower
from services.runtime.tasks import Tasks

_ASK_SECONDS = 2.0
_ASK_EVERY = 0.05
"""Seconds between two questions, whatever number of unknown keys comes."""
_CATCH_UP_SECONDS = 1.0
"""How long is waited for what access_control has and this process has not."""
_SAVE_AFTER = 0.2
"""Seconds that a change may wait for others before the file is written."""
_SAVE_EVERY = 300.0
"""Seconds after which the file is written anew although nothing changed, because it says when it was last true."""

_log = logging.getLogger(__name__)


class AccessKeeper:
    """The book and what keeps it. :meth:`start` and :meth:`stop` in the loop that uses it."""

    def __init__(
        self,
        access_control: Peer,
        file: BookFile,
        *,
        max_stale: float,
        admins: frozenset[str] = frozenset(),
        saves: bool = True,
    ) -> None:
        """``max_stale``: seconds for which the book may be used without hearing from access_control."""
        self.book = AccessBook(admins)
        self._peer = access_control
        self._stub = access_pb2_grpc.AccessSyncStub(access_control.channel)
        self._file = file
        self._max_stale = max_stale
        self._saves = saves
        self._saved = (0, 0.0)
        self._heard_before = 0.0
        """UNIX time at which what was loaded was last true."""
        self._keys: Follower[pb.KeyRecord] = Follower(
            "keys", access_control.shown(self._stub.WatchKeyRecords), self.book.keys
        )
        self._members: Follower[pb.Member] = Follower(
            "members", access_control.shown(self._stub.WatchMembers), self.book.members
        )
        self._asking: asyncio.Task[None] | None = None
        """The question that has yet to be sent: only that one's answer tells what was written until now."""
        self._asked_at = 0.0
        self._tasks = Tasks("access")

    async def start(self) -> None:
        """Load what is on disk, and begin to follow."""
        saved = await asyncio.to_thread(self._file.load)
        if saved is not None:
            self._take(saved)
        for work in (self._keys.run(), self._members.run(), self._save_forever()):
            self._tasks.start(work)

    async def stop(self) -> None:
        """End following, and write the book down."""
        await self._tasks.stop()
        if self._saves and self.loaded:
            await asyncio.to_thread(self._file.save, self.snapshot())

    @property
    def synced(self) -> bool:
        """Tell whether access_control itself has said everything once."""
        return self._keys.synced.is_set() and self._members.synced.is_set()

    @property
    def loaded(self) -> bool:
        """Tell whether there is a book at all: from access_control, from disk, or from another process."""
        return self._heard_before > 0 or self.synced

    @property
    def heard_at(self) -> float:
        """UNIX time at which the book was last known to be true; 0: never."""
        heard = [self._keys.last_heard, self._members.last_heard]
        if not self.synced or None in heard:
            return self._heard_before
        ago = asyncio.get_running_loop().time() - min(at for at in heard if at is not None)
        return max(self._heard_before, time.time() - ago)

    @property
    def usable(self) -> bool:
        """Tell whether the book may be decided by: it is there and not too stale."""
        return self.loaded and time.time() - self.heard_at <= self._max_stale

    @property
    def current(self) -> bool:
        """Tell whether access_control is being followed at this moment."""
        return self._keys.connected and self._members.connected

    async def catch_up(self) -> None:
        """Return when everything is known that access_control had written when this was called, or it cannot be told.

        Raises nothing: who asks looks again, and finds what there is.
        """
        if self._asking is None:
            self._asking = self._tasks.start(self._ask())
        await asyncio.shield(self._asking)

    async def reached(self, revision: int) -> None:
        """Return when a revision of access_control's store was taken in, or after a second."""
        try:
            async with asyncio.timeout(_CATCH_UP_SECONDS):
                await self._keys.reached(revision)
                await self._members.reached(revision)
        except TimeoutError:
            pass

    def snapshot(self) -> SavedBook:
        """Return the book as it is kept on disk and given to others."""
        keys, members = self.book.records()
        return SavedBook(
            heard_at=self.heard_at,
            keys=[record.SerializeToString() for record in keys],
            members=[member.SerializeToString() for member in members],
            revoked=sorted(self.book.revoked),
        )

    def adopt(self, saved: SavedBook) -> bool:
        """Take another process's book if it was true later than this one; tells whether it was taken."""
        if self._keys.synced.is_set() or saved.heard_at <= self.heard_at:
            self.book.revoked.update(saved.revoked)
            return False
        self._take(saved)
        return True

    def _take(self, saved: SavedBook) -> None:
        self.book.revoked.update(saved.revoked)
        self.book.keys.replace([pb.KeyRecord.FromString(record) for record in saved.keys])
        self.book.members.replace([pb.Member.FromString(member) for member in saved.members])
        self._heard_before = min(saved.heard_at, time.time())

    async def _ask(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._asked_at + _ASK_EVERY - loop.time()))
        self._asked_at, self._asking = loop.time(), None
        if not self.current:
            return
        request = pb.GetAccessRevisionRequest()
        try:
            newest = await self._peer.call(self._stub.GetAccessRevision, request, timeout=_ASK_SECONDS)
        except JunctorError as error:
            _log.debug("cannot ask access_control for its revision", extra={"reason": error.reason})
            return
        await self.reached(newest.revision)

    async def _save_forever(self) -> None:
        while self._saves:
            await asyncio.sleep(_SAVE_AFTER)
            generation, at = self._saved
            due = self.book.generation != generation or time.time() - at > _SAVE_EVERY
            if due and self.synced:
                self._saved = (self.book.generation, time.time())
                await asyncio.to_thread(self._file.save, self.snapshot())
