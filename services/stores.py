"""Where the store of each registry is: a SQLite file in the data folder, or a schema of the PostgreSQL database."""

from __future__ import annotations

from services.runtime.db import Database, open_database
from services.settings import Settings


def open_store(settings: Settings, service: str) -> Database:
    """Open the store of ``access-control``, ``model-registry`` or ``provider-registry`` without connecting yet.

    The data folder is made if need be. Raises OSError for one that cannot be made.
    """
    store = service.replace("-", "_")
    if settings.database_url is not None:
        return open_database(settings.database_url, schema=store, migrates=settings.migrate)
    folder = settings.data_dir
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return open_database(f"sqlite:///{(folder / f'{store}.sqlite').absolute()}", schema=store)
