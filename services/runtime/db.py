"""One store's database: engine, transactions, migrations. SQLite by default, PostgreSQL by URL.

SQLite runs in WAL mode with ``synchronous=FULL``: an acknowledged write is on disk. Write transactions begin with
``BEGIN IMMEDIATE`` and are taken one after another, so commit order is revision order on either engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from junctor.errors import NotReady
from services.runtime.db_errors import connecting, refusals

_BUSY_SECONDS = 10
"""How long SQLite waits for another process's write lock before it gives up."""


T = TypeVar("T")


class Database:
    """A store's engine. ``schema`` is its schema on PostgreSQL; SQLite has one file per store."""

    def __init__(self, engine: AsyncEngine, *, schema: str) -> None:
        self.engine = engine
        self.schema = schema
        self.is_sqlite = engine.dialect.name == "sqlite"
        self._writer = asyncio.Lock()
        self._closed = False
        self._in_use = 0
        self._unused = asyncio.Event()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that sees one state of the store and writes nothing. Raises StoreUnavailable."""
        with refusals():
            async with self._reading() as connection:
                yield connection

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        async with self._connection() as connection:
            if not self.is_sqlite:
                await connection.execution_options(isolation_level="REPEATABLE READ")
            async with connection.begin():
                yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes: all of it is committed when the block ends, or nothing of it.

        Raises StoreUnavailable; when that comes of the commit, the write may have been done all the same.
        """
        with refusals():
            async with self._writing() as connection:
                yield connection

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[AsyncConnection]:
        async with self._writer, self._connection() as connection:
            await connection.execution_options(junctor_write=True)
            async with connection.begin():
                yield connection

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        if self._closed:
            raise NotReady("The store is closed.", retry_after=1.0)
        self._in_use += 1
        try:
            connection = self.engine.connect()
            # A caller may leave at any time; an opening cut half-way would leak the driver's thread and file.
            opening = asyncio.ensure_future(connection.start())
            try:
                with connecting():
                    await outlast(opening)
                yield connection
            finally:
                if opening.exception() is None:  # else there is nothing to close, and trying would hide why
                    await outlast(asyncio.ensure_future(connection.close()))
        finally:
            self._in_use -= 1
            if not self._in_use:
                self._unused.set()

    async def migrate(self, migrations: Path) -> None:
        """Bring the schema to the newest revision of the Alembic folder ``migrations``."""
        # In one write transaction: of two processes that start together, the second finds everything done.
        async with self._writing() as tx:  # at start, `opening` says what is wrong
            if not self.is_sqlite:
                name = {"name": f"junctor.{self.schema}"}
                await tx.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), name)
                await tx.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{self.schema}"'))
            await tx.run_sync(_upgrade, migrations)

    async def answers(self) -> bool:
        """Tell whether the database answers a trivial query, and its file is still there."""
        if self.is_sqlite and not self._file_is_there():
            return False  # open connections would go on, and every write would be lost with them
        try:
            async with self.read() as connection:
                await connection.execute(text("SELECT 1"))
        except Exception:  # noqa: BLE001 - any driver error means the same: not now
            return False
        return True

    def _file_is_there(self) -> bool:
        file = self.engine.url.database
        return file in (None, "", ":memory:") or Path(str(file)).exists()

    async def close(self) -> None:
        """Let transactions under way end, and close every connection; new transactions are refused as NotReady."""
        self._closed = True
        self._unused.clear()
        if self._in_use:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_BUSY_SECONDS):
                    await self._unused.wait()
        await self.engine.dispose()


def open_database(url: str, *, schema: str) -> Database:
    """Open ``sqlite:///path`` or ``postgresql://…`` without connecting yet."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        arguments = {"timeout": _BUSY_SECONDS, "async_creator_fn": _connect_sqlite}
        engine = create_async_engine(parsed.set(drivername="sqlite+aiosqlite"), connect_args=arguments)
        _prepare_sqlite(engine)
        return Database(engine, schema=schema)
    engine = create_async_engine(
        parsed.set(drivername="postgresql+asyncpg"),
        pool_pre_ping=True,
        connect_args={"server_settings": {"search_path": schema, "application_name": f"junctor-{schema}"}},
    )
    return Database(engine, schema=schema)


async def outlast(work: asyncio.Future[T]) -> T:
    """Wait for ``work`` to its end, however often the waiting task is cancelled meanwhile; then it is cancelled."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            # A server that stops cancels its calls, and the loop that ends cancels them once more.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # looked at: it is not reported as lost
        raise


class _Connection(aiosqlite.Connection):
    """A connection whose statements are never abandoned: one that goes on in its thread would keep its lock."""

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._running or not self._connection:
            raise ValueError("the connection is closed")
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._tx.put_nowait((done, partial(fn, *args, **kwargs)))
        return await outlast(done)

    async def close(self) -> None:
        """Roll back, then close: with a cursor still alive somewhere, SQLite would close, and unlock, much later."""
        if self._running and self._connection is not None:
            await self._execute(self._connection.rollback)
        await super().close()


def _connect_sqlite(path: str, **arguments: Any) -> aiosqlite.Connection:
    connection = _Connection(partial(sqlite3.connect, path, **arguments), iter_chunk_size=64)
    connection._thread.daemon = True  # a process that must end does not wait for a statement
    return connection


def _use_wal(cursor: Any) -> None:
    """Put the file into WAL mode. Only the first process has to, and SQLite lets none wait for that lock."""
    for wait in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            await_only(asyncio.sleep(wait))
        else:
            return
    cursor.execute("PRAGMA journal_mode=WAL")


def _prepare_sqlite(engine: AsyncEngine) -> None:
    def connected(connection: Any, _record: object) -> None:
        # The driver must not begin transactions by itself: `began` does, and says which kind.
        connection.isolation_level = None
        cursor = connection.cursor()
        _use_wal(cursor)
        for pragma in ("synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def began(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("junctor_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    event.listen(engine.sync_engine, "connect", connected)
    event.listen(engine.sync_engine, "begin", began)


def _upgrade(connection: Connection, migrations: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
