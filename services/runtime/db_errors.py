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


@contextmanager
def refusals() -> Iterator[None]:
    """Raise StoreUnavailable for what a database refuses for now; other errors of it pass."""
    try:
        yield
    except (DBAPIError, PoolTimeout, CannotConnect) as error:
        cause = _cause(error)
        if cause is None:
            raise
        raise _unavailable(cause, error) from error


@contextmanager
def connecting() -> Iterator[None]:
    """Raise CannotConnect for the socket's errors, which drivers let through, and for a login that is refused."""
    try:
        yield
    except DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error) or _cause(error) is not None:
            raise
        raise CannotConnect(None, str(error.orig).partition("\n")[0]) from error
    except OSError as error:  # TimeoutError is one
        raise CannotConnect(error.errno, error.strerror or str(error)) from error


def _unavailable(cause: str, error: Exception) -> StoreUnavailable:
    said = getattr(error, "orig", None) or error
    _log.error("the store refuses: %s", str(said).partition("\n")[0], extra={"cause": cause})
    return StoreUnavailable(_TEXTS[cause], metadata={"cause": cause}, retry_after=_RETRY_SECONDS)


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
