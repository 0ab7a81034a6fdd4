"""How junctor connects to PostgreSQL: every wait bounded, so that a server that says nothing is as good as one away.

The URL is read by the driver, as ``libpq`` would read it (``sslmode``, ``host`` of a socket's folder, several hosts).
"""

from __future__ import annotations

from functools import partial

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.runtime.db import Connect
from services.runtime.db_errors import CannotConnect

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
"""How long one statement may take, or a lost server stay unnoticed, before the connection is given up."""
LOCK_SECONDS = 10
"""How long a writer waits for the writers of other replicas."""
STUCK_SECONDS = 60
"""How long a transaction may do nothing: a replica that was stopped in the midst of a write would hold all others."""
POOL_SIZE = 8
"""Connections of one store. Three stores, each with one more that listens, make 27 for a replica, metering's smaller
one 5 more: three replicas fit into PostgreSQL's default of 100 (97 without the administrator's). Writers of a process
take turns: one connection is theirs, the rest is readers'.
"""
POOL_WAIT_SECONDS = 10.0


def connector(url: URL, schema: str, *, patient: bool = False) -> Connect:
    """Return what opens one connection of the driver whose tables are those of ``schema``.

    ``patient``: its statements may take any time, as those of a migration do.
    """
    bounds = {"lock_timeout": f"{LOCK_SECONDS}s", "idle_in_transaction_session_timeout": f"{STUCK_SECONDS}s"}
    return partial(
        asyncpg.connect,
        url.set(drivername="postgresql").render_as_string(hide_password=False),
        timeout=CONNECT_SECONDS,
        command_timeout=None if patient else ANSWER_SECONDS,
        server_settings={
            "search_path": schema,
            "application_name": f"junctor-{schema}",
            **({} if patient else bounds),
        },
    )


def open_engine(url: URL, connect: Connect, *, size: int = POOL_SIZE) -> AsyncEngine:
    """Make the engine of a store with at most ``size`` connections; it connects when it is used."""
    engine = create_async_engine(
        url.set(drivername="postgresql+asyncpg"),
        async_creator=connect,
        pool_pre_ping=True,
        pool_size=size,
        max_overflow=0,
        pool_timeout=POOL_WAIT_SECONDS,
        pool_use_lifo=True,
    )
    event.listen(engine.sync_engine, "handle_error", _lost, retval=True)
    return engine


def _lost(context: ExceptionContext) -> BaseException | None:
    """Take an answer that did not come, and a connection that failed below SQL, for the loss of the server."""
    error = context.original_exception
    # The driver's "internal error" is what it says of a connection that went while it was about to use it.
    if isinstance(error, (OSError, asyncpg.InternalClientError)):  # TimeoutError is an OSError
        context.is_disconnect = True
        return CannotConnect(getattr(error, "errno", None), str(error) or "no answer")
    return None
