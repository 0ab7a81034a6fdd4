"""One store's database: engine, transactions, migrations. SQLite by default, PostgreSQL by URL.

SQLite runs in WAL mode with ``synchronous=FULL``: an acknowledged write is on disk. Write transactions begin with
``BEGIN IMMEDIATE`` and are taken one after another, so commit order is revision order on either engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import aiosqlite
from sqlalchemy import Connection, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from junctor.errors import NotReady
from services.runtime import schema
from services.runtime.db_errors import Refusals, connecting, unavailable
from services.runtime.tasks import Tasks

_BUSY_SECONDS = 10
"""How long SQLite waits for another process's write lock before it gives up."""
READERS = 7
"""Readers of a store on PostgreSQL at the same time."""
_PROBE_SECONDS = 5.0
"""Silence after which a store counts as away."""


_SNAPSHOT: dict[str, Any] = {"isolation_level": "REPEATABLE READ"}
_FEW = 50
"""Rows that SQLite writes in one statement on the event loop; more go to the connection's thread."""

T = TypeVar("T")
Connect = Callable[[], Awaitable[Any]]


class Database:
    """A store's engine. ``schema`` is its schema on PostgreSQL; SQLite has one file per store."""

    def __init__(
        self, engine: AsyncEngine, *, schema: str, migrates: bool = True, connect: Connect | None = None
    ) -> None:
        """``migrates``: :meth:`prepare` brings the schema up to date; else it only looks. ``connect``: PostgreSQL's."""
        self.engine = engine
        self.schema = schema
        self.migrates = migrates
        self.is_sqlite = engine.dialect.name == "sqlite"
        self._writer = asyncio.Lock()
        self._closed = False
        self._in_use = 0
        self._unused = asyncio.Event()
        self._connect = connect
        self._tasks = Tasks(f"the store {schema}")
        self._refusals = Refusals(schema)
        self._fit = True
        self._probe: asyncio.Task[bool] | None = None
        self._probed_until = 0.0

    @property
    def channel(self) -> str:
        """Where PostgreSQL tells the replicas of a store of one another's writes."""
        return f"junctor_{self.schema}"

    def listen(self, wake: Callable[[], None], *, own: str) -> None:
        """Call ``wake`` whenever another than ``own`` has written, until :meth:`close`; SQLite has no replicas."""
        if self._connect is not None and not self._closed:
            from services.runtime.listening import Listener

            self._tasks.start(Listener(self._connect, self.channel, wake, own=own).run())

    @asynccontextmanager
    async def read(self, *, bulk: bool = False) -> AsyncIterator[AsyncConnection]:
        """A transaction that sees one state of the store and writes nothing. Raises StoreUnavailable.

        ``bulk``: it may read thousands of rows, which SQLite then does beside the event loop.
        """
        self._require_fit()
        with self._refusals.told("read"):
            async with self._reading(bulk=bulk) as connection:
                yield connection

    @asynccontextmanager
    async def _reading(self, *, bulk: bool = False) -> AsyncIterator[AsyncConnection]:
        async with self._connection() as connection:
            await connection.execution_options(**({"junctor_bulk": bulk} if self.is_sqlite else _SNAPSHOT))
            async with connection.begin():
                yield connection

    @asynccontextmanager
    async def write(self, *, bulk: bool = False) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes: all of it is committed when the block ends, or nothing of it.

        ``bulk`` as in :meth:`read`. Raises StoreUnavailable; when that comes of the commit, the write may have been
        done all the same.
        """
        self._require_fit()
        with self._refusals.told("write"):
            async with self._writing(bulk=bulk) as connection:
                yield connection

    @asynccontextmanager
    async def _writing(self, *, bulk: bool = True) -> AsyncIterator[AsyncConnection]:
        async with self._writer, self._connection() as connection:
            await connection.execution_options(junctor_write=True, junctor_bulk=bulk)
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

    async def prepare(self, migrations: Path) -> None:
        """At start: migrate if that is this process's part, else raise SchemaUnfit unless the schema can be used.

        Until it has succeeded, nothing is read or written: that is refused as StoreUnavailable.
        """
        self._fit = False
        if self.migrates:
            await self.migrate(migrations)
        else:
            async with self._reading(bulk=False) as tx:
                await tx.run_sync(schema.require, migrations, self.schema)
        self._fit = True

    def _require_fit(self) -> None:
        if not self._fit:
            raise unavailable("unreachable")

    async def migrate(self, migrations: Path) -> schema.Migrated:
        """Bring the schema to the newest revision of the Alembic folder ``migrations``. Raises SchemaUnfit."""
        # In one write transaction: of two processes that start together, the second finds everything done.
        async with self._migrating() as tx:  # at start, `opening` says what is wrong
            if not self.is_sqlite:
                await self._lock_schema(tx)
            return await tx.run_sync(schema.upgrade, migrations)

    @asynccontextmanager
    async def _migrating(self) -> AsyncIterator[AsyncConnection]:
        """A write transaction that may take its time: tables grow, and another process may be migrating."""
        if self.is_sqlite:
            async with self._writing() as connection:
                yield connection
            return
        from services.runtime import postgres

        patient = postgres.open_engine(self.engine.url, postgres.connector(self.engine.url, self.schema, patient=True))
        try:
            async with patient.begin() as connection:
                yield connection
        finally:
            await patient.dispose()

    async def _lock_schema(self, tx: AsyncConnection) -> None:
        """Make the schema and be the only one who migrates it, until ``tx`` ends."""
        name = {"name": f"junctor.{self.schema}"}
        await tx.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), name)
        there = text("SELECT 1 FROM pg_namespace WHERE nspname = :name")
        # IF NOT EXISTS would ask for the right to create one also where there is one.
        if (await tx.execute(there, {"name": self.schema})).first() is None:
            await tx.execute(text(f'CREATE SCHEMA "{self.schema}"'))

    async def answers(self) -> bool:
        """Tell whether the database answers a trivial query, and its file is still there."""
        if not self._fit:
            return False
        if self.is_sqlite and not self._file_is_there():
            return False  # open connections would go on, and every write would be lost with them
        clock = asyncio.get_running_loop().time
        if self._probe is None or self._probe.done():
            self._probe, self._probed_until = self._tasks.start(self._probed()), clock() + _PROBE_SECONDS
        # A server that says nothing is waited for once, and asked again when it has answered or been given up.
        await asyncio.wait([self._probe], timeout=max(0.0, self._probed_until - clock()))
        return self._probe.done() and not self._probe.cancelled() and self._probe.result()

    async def _probed(self) -> bool:
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
        await self._tasks.stop()
        self._unused.clear()
        if self._in_use:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_BUSY_SECONDS):
                    await self._unused.wait()
        with contextlib.suppress(TimeoutError):  # PostgreSQL may be away, and each connection would be said goodbye to
            async with asyncio.timeout(_BUSY_SECONDS):
                await self.engine.dispose()


def open_database(url: str, *, schema: str, migrates: bool = True, readers: int = READERS) -> Database:
    """Open ``sqlite:///path`` or ``postgresql://…`` without connecting yet; a SQLite file is always migrated.

    ``readers``: PostgreSQL's connections that read at the same time; one more writes.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        arguments = {"timeout": _BUSY_SECONDS, "async_creator_fn": _connect_sqlite}
        engine = create_async_engine(parsed.set(drivername="sqlite+aiosqlite"), connect_args=arguments)
        _prepare_sqlite(engine)
        return Database(engine, schema=schema)
    from services.runtime import postgres  # loads the driver

    connect = postgres.connector(parsed, schema)
    engine = postgres.open_engine(parsed, connect, size=readers + 1)
    return Database(engine, schema=schema, migrates=migrates, connect=connect)


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
    """A connection that uses its thread for what may take long: locks, the disk, many rows.

    Other statements run on the event loop: they take less than the way to a thread and back, which is four times
    that way for each query. What goes to the thread is never abandoned: going on there, it would keep its lock.
    """

    bulk = True
    _stopping: asyncio.Future[Any] | None = None

    async def _connect(self) -> aiosqlite.Connection:
        """Open the file; one that cannot be opened leaves no thread, which would tell a loop that may have ended."""
        try:
            return await super()._connect()
        except BaseException:
            if self._stopping is not None:
                await outlast(self._stopping)
            raise

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._running or not self._connection:
            raise ValueError("the connection is closed")
        if not self.bulk and self._is_quick(fn, args):
            return fn(*args, **kwargs)
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._tx.put_nowait((done, partial(fn, *args, **kwargs)))
        return await outlast(done)

    def _is_quick(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> bool:
        if self._connection is None or getattr(fn, "__self__", None) is self._connection:
            # Of what a connection does itself, commits and what ends an open transaction write to the disk.
            return fn.__name__ == "cursor" or (fn.__name__ == "rollback" and not self._conn.in_transaction)
        if fn.__name__ == "executemany":
            return len(args[1]) <= _FEW
        return not (args and isinstance(args[0], str) and args[0].startswith("BEGIN IMMEDIATE"))

    async def close(self) -> None:
        """Roll back, then close: with a cursor still alive somewhere, SQLite would close, and unlock, much later."""
        if self._running and self._connection is not None:
            await self._execute(self._connection.rollback)
        await super().close()

    def stop(self) -> asyncio.Future[Any] | None:
        """End the thread, once: of two who close at the same time, the second would wait for a thread that is gone."""
        if not self._running:
            return None
        self._stopping = super().stop()
        return self._stopping


def _connect_sqlite(path: str, **arguments: Any) -> aiosqlite.Connection:
    connect = partial(sqlite3.connect, path, **arguments | {"check_same_thread": False})
    connection = _Connection(connect, iter_chunk_size=64)
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
        options = connection.get_execution_options()
        cast(_Connection, connection.connection.driver_connection).bulk = options.get("junctor_bulk", False)
        immediate = options.get("junctor_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    event.listen(engine.sync_engine, "connect", connected)
    event.listen(engine.sync_engine, "begin", began)
