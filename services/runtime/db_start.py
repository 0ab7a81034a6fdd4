"""Whether a store can be opened at start: what the driver, the engine and Alembic say, as one sentence for an operator.

A server that cannot use its database must say so in one line; a traceback of three libraries tells nobody what to do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from alembic.util.exc import CommandError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from junctor.errors import StoreUnavailable
from services.runtime.db import Database
from services.runtime.db_errors import is_away
from services.runtime.failures import CannotStart
from services.runtime.schema import SchemaUnfit

_AGAIN_SECONDS = 0.5
"""Pause between two looks at a database that is not there yet."""

_log = logging.getLogger(__name__)


class StoreUnusable(CannotStart):
    """A database cannot be used; the text names it and the reason, never a password."""


class StoreAway(StoreUnusable):
    """Nobody answers where the database should be: it may come."""


async def start_when_there(
    database: Database, start: Callable[[], Awaitable[None]], away: StoreAway, *, turn: asyncio.Lock
) -> None:
    """Try ``start`` until it succeeds, after a first time that failed with ``away``; say each new reason once.

    Whatever it fails with then, it is tried again: who starts everything at once migrates about now. ``turn`` is held
    for each try.
    """
    said = str(away)
    _log.warning("waiting for the store: %s", said, extra={"store": database.schema})
    while True:
        await asyncio.sleep(_AGAIN_SECONDS)
        try:
            async with turn:
                with opening(database):
                    await start()
        except StoreUnusable as error:
            if str(error) != said:
                said = str(error)
                _log.error("still waiting for the store: %s", said, extra={"store": database.schema})
        else:
            _log.warning("the store is there: %s", place_of(database), extra={"store": database.schema})
            return


@contextmanager
def opening(database: Database) -> Iterator[None]:
    """Raise StoreUnusable for whatever the block's use of ``database`` fails with; StoreAway if nobody answers."""
    try:
        with _described(database):
            yield
    except StoreUnusable as error:
        cause = error.__cause__.__cause__ if isinstance(error.__cause__, StoreUnavailable) else error.__cause__
        if not database.is_sqlite and is_away(cause):
            raise StoreAway(str(error)) from cause
        raise


@contextmanager
def _described(database: Database) -> Iterator[None]:
    try:
        yield
    except StoreUnavailable as error:
        cause = error.__cause__
        if isinstance(cause, OSError):
            raise StoreUnusable(f"cannot reach {place_of(database)}: {cause.strerror}") from error
        why = getattr(cause, "orig", None) or cause or error
        raise StoreUnusable(f"cannot use {place_of(database)}: {_first_line(why)}") from error
    except SchemaUnfit as error:
        raise StoreUnusable(f"{place_of(database)} {error}") from error
    except CommandError as error:  # a revision that this release does not know
        raise StoreUnusable(f"{place_of(database)} was written by another release: {_first_line(error)}") from error
    except DBAPIError as error:
        raise StoreUnusable(f"cannot use {place_of(database)}: {_first_line(error.orig or error)}") from error
    except SQLAlchemyError as error:
        raise StoreUnusable(f"cannot use {place_of(database)}: {_first_line(error)}") from error
    except OSError as error:  # asyncpg: nobody listens there
        raise StoreUnusable(f"cannot reach {place_of(database)}: {error.strerror or error}") from error


def place_of(database: Database) -> str:
    """Name a database for an operator: file, or database and host; never a user or a password."""
    url = database.engine.url
    if database.is_sqlite:
        return f"the database file {url.database}"
    return f"the database {url.database} on {url.host or url.query.get('host', 'localhost')}"


def _first_line(error: object) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
