"""Where the store of each registry is: a SQLite file in the data folder, or a schema of the PostgreSQL database."""

from __future__ import annotations

from services.runtime.db import READERS, Database, open_database
from services.settings import Settings

_READERS = {"metering": 3}
"""Its reports are few, and a replica's connections are counted (:data:`services.runtime.postgres.POOL_SIZE`)."""


def open_store(settings: Settings, service: str) -> Database:
    """Open the store ``access-control``, ``metering``, ``model-registry`` or ``provider-registry``; connect later.

    The data folder is made if need be. Raises OSError for one that cannot be made.
    """
    store = service.replace("-", "_")
    if settings.database_url is not None:
        return open_database(
            settings.database_url, schema=store, migrates=settings.migrate, readers=_READERS.get(store, READERS)
        )
    folder = settings.data_dir
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return open_database(f"sqlite:///{(folder / f'{store}.sqlite').absolute()}", schema=store)
