"""``junctord SERVICE… migrate``: brings the stores of services up to date, and says what it did, a line for each.

Two at once queue on PostgreSQL's advisory lock or SQLite's write lock: the second finds nothing to do. A store is
migrated in one transaction, so a migration that is killed leaves it as it was.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.access_control import store as access_control
from services.assembly import private_files
from services.metering import store as metering
from services.model_registry import store as model_registry
from services.provider_registry import store as provider_registry
from services.runtime.db_start import StoreUnusable, opening, place_of
from services.runtime.schema import Migrated
from services.settings import Settings
from services.stores import open_store

MIGRATIONS: Mapping[str, Path] = {
    "access-control": access_control.MIGRATIONS,
    "model-registry": model_registry.MIGRATIONS,
    "provider-registry": provider_registry.MIGRATIONS,
}
"""The services that have a store."""
BESIDE: Mapping[str, Mapping[str, Path]] = {"access-control": {"metering": metering.MIGRATIONS}}
"""Stores of what lives in a service's process as well."""


def migrate(settings: Settings, services: Sequence[str]) -> int:
    """Migrate the stores one after the other; returns the exit code: 0 done, 1 one could not be, the rest was left."""
    private_files()
    logging.basicConfig(handlers=[logging.NullHandler()])  # what is wrong is said once, below
    try:
        for service in services:
            for store, migrations in {service: MIGRATIONS[service], **BESIDE.get(service, {})}.items():
                sys.stdout.write(f"{store}: {asyncio.run(_migrate(settings, store, migrations))}\n")
                sys.stdout.flush()
    except (StoreUnusable, OSError) as error:
        sys.stderr.write(f"junctord: {error}\n")
        return 1
    return 0


async def _migrate(settings: Settings, store: str, migrations: Path) -> str:
    database = open_store(settings, store)
    try:
        with opening(database):
            done = await database.migrate(migrations)
        schema = "" if database.is_sqlite else f", schema {database.schema}"
        return f"{place_of(database)}{schema}: {_said(done)}"
    finally:
        await database.close()


def _said(done: Migrated) -> str:
    if done.before == done.after:
        return f"at {done.after.revision}, nothing to do"
    return f"from {done.before.revision or 'nothing'} to {done.after.revision}"
