"""The newest changes of a store in memory, as this process committed them: watchers need not read the log for them.

The log is the truth. The tail holds an unbroken run of revisions and answers only about what lies in it; whatever it
was not told of (another process wrote, a commit's outcome is unknown) makes a gap, and then the log is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

KEEP = 1_000
"""Changes: a watcher that is further behind reads the log."""
KEEP_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the log; ``body`` is the resource as protobuf, its last state if ``deleted``."""

    revision: int
    deleted: bool
    body: bytes


Logged = tuple[str, Change]
"""A change with the kind of its resource."""


class Tail:
    """Revisions ``start`` (exclusive) to ``end``, one change each."""

    def __init__(self, *, keep: int = KEEP, keep_bytes: int = KEEP_BYTES) -> None:
        self._keep = keep
        self._keep_bytes = keep_bytes
        self._start = 0
        self._changes: list[Logged] = []
        self._bytes = 0

    def extend(self, committed: Sequence[Logged]) -> None:
        """Take the changes of one transaction, in order, after its commit."""
        for kind, change in committed:
            if not self._changes or change.revision != self._end + 1:
                self.forget()
                self._start = change.revision - 1
            self._changes.append((kind, change))
            self._bytes += len(change.body)
        if len(self._changes) > self._keep or self._bytes > self._keep_bytes:
            self._trim()

    def forget(self) -> None:
        """Know nothing any more."""
        self._changes, self._bytes = [], 0

    def since(self, kind: str, after: int, *, upto: int | None = None) -> tuple[int, list[Change]] | None:
        """Return the last revision (at most ``upto``) and the changes of one kind after ``after`` until there.

        None: the tail does not know all of them.
        """
        end = self._end if upto is None else upto
        if not self._changes or not self._start <= after <= end <= self._end:
            return None
        run = self._changes[after - self._start : end - self._start]
        return end, [change for of, change in run if of == kind]

    @property
    def _end(self) -> int:
        return self._start + len(self._changes)

    def _trim(self) -> None:
        """Drop the older half, or all that came before the newest change if that is large."""
        gone = max(len(self._changes) // 2, 1)
        self._start += gone
        self._changes = self._changes[gone:]
        self._bytes = sum(len(change.body) for _, change in self._changes)
