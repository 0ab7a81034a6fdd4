"""What a database's refusal means for a caller: a full disk or a server that is away is no fault of junctor itself.

The driver's text goes into the log, never into the answer: it names files, hosts and tables.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from junctor.errors import StoreUnavailable

_TEXTS = {
    "full": "The service's store is full: nothing can be written until there is space again.",
    "io_error": "The service's store cannot be read or written just now.",
    "busy": "The service's store is busy.",
    "unreachable": "The service's store cannot be reached.",
}
_SQLITE = {
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_IOERR: "io_error",
    sqlite3.SQLITE_CANTOPEN: "io_error",
    sqlite3.SQLITE_READONLY: "io_error",
    sqlite3.SQLITE_BUSY: "busy",
    sqlite3.SQLITE_LOCKED: "busy",
    sqlite3.SQLITE_PROTOCOL: "busy",
}
"""By primary result code (sqlite.org/rescode.html)."""
_POSTGRES = {
    "53100": "full",
    "53": "busy",
    "58": "io_error",
    "08": "unreachable",
    "57P": "unreachable",
    "25006": "unreachable",
    "40001": "busy",
    "40P01": "busy",
    "55P03": "busy",
}
"""By SQLSTATE, or the start of it: the longest one counts (PostgreSQL's appendix A)."""
_RETRY_SECONDS = 1.0

_log = logging.getLogger(__name__)


class CannotConnect(OSError):
    """The database's server does not take connections."""


class LoginRefused(CannotConnect):
    """It takes connections, but not with these credentials, or not to this database."""


class Refusals:
    """What one store refuses at present. The log is told when a cause appears and when it is gone, not at each call."""

    def __init__(self, store: str) -> None:
        self._store = store
        self._told: set[tuple[str, str]] = set()
        """How the store was used and why it refused; a server that is away refuses every use."""

    @contextmanager
    def told(self, use: str) -> Iterator[None]:
        """Raise StoreUnavailable for what a database refuses for now; other errors of it pass.

        ``use``: ``read`` or ``write``. A full disk can still be read, which does not make it writable.
        """
        try:
            yield
        except (DBAPIError, PoolTimeout, CannotConnect) as error:
            cause = _cause(error)
            if cause is None:
                raise
            self._tell("" if cause == "unreachable" else use, cause, error)
            raise unavailable(cause) from error
        if self._told:
            self._is_fine(use)

    def _tell(self, use: str, cause: str, error: Exception) -> None:
        said = str(getattr(error, "orig", None) or getattr(error, "strerror", None) or error).partition("\n")[0]
        level = logging.DEBUG if (use, cause) in self._told else logging.ERROR
        self._told.add((use, cause))
        _log.log(level, "the store refuses: %s", said, extra={"store": self._store, "cause": cause})

    def _is_fine(self, use: str) -> None:
        over = {told for told in self._told if told[0] in ("", use)}
        self._told -= over
        for _, cause in over:
            _log.warning("the store is used again", extra={"store": self._store, "cause": cause})


@contextmanager
def connecting() -> Iterator[None]:
    """Raise CannotConnect for the socket's errors, which drivers let through, and for a login that is refused."""
    try:
        yield
    except DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error) or _cause(error) is not None:
            raise
        raise LoginRefused(None, str(error.orig).partition("\n")[0]) from error
    except OSError as error:  # TimeoutError is one
        raise CannotConnect(error.errno, error.strerror or str(error)) from error


def unavailable(cause: str) -> StoreUnavailable:
    """Make the error that a caller gets: ``full``, ``io_error``, ``busy`` or ``unreachable``."""
    return StoreUnavailable(_TEXTS[cause], metadata={"cause": cause}, retry_after=_RETRY_SECONDS)


def is_away(error: BaseException | None) -> bool:
    """Tell whether a database failed so because nobody answers there, or not yet."""
    if isinstance(error, DBAPIError | PoolTimeout | CannotConnect):
        return _cause(error) == "unreachable" and not isinstance(error, LoginRefused)
    return isinstance(error, OSError)


def _cause(error: DBAPIError | PoolTimeout | CannotConnect) -> str | None:
    if isinstance(error, CannotConnect):
        return "unreachable"
    if isinstance(error, PoolTimeout):
        return "busy"
    if isinstance(error.orig, sqlite3.Error):
        return _SQLITE.get(getattr(error.orig, "sqlite_errorcode", 0) & 0xFF)
    state = getattr(error.orig, "sqlstate", None) or ""
    known = max((start for start in _POSTGRES if state.startswith(start)), key=len, default=None)
    if known is not None:
        return _POSTGRES[known]
    return "unreachable" if error.connection_invalidated else None
