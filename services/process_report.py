"""What a process is, for operators: versions, settings without secrets, how far each store and each catalog is."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from services.settings import Settings

if TYPE_CHECKING:
    from services.runtime.db import Database

_PACKAGES = ("junctor", "grpcio", "protobuf", "uvicorn", "httptools", "sqlalchemy", "asyncpg", "cryptography", "uvloop")


def versions() -> dict[str, str]:
    """Return versions of junctor, Python, the system and what the data path is made of."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "executable": sys.executable}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def about(
    settings: Settings, *, checks: Mapping[str, bool], stores: Mapping[str, Any], router: Mapping[str, Any]
) -> dict[str, Any]:
    """Put the report together. ``router``: empty where there is none."""
    return {
        "services": list(settings.services),
        "versions": versions(),
        "pid": os.getpid(),
        "checks": dict(checks),
        "stores": dict(stores),
        "router": dict(router),
        "settings": settings.render(redact=True).splitlines(),
    }


async def store_revisions(databases: Mapping[str, Database]) -> dict[str, Any]:
    """Return the newest revision of every store, or why it cannot be read."""
    from services.runtime.changes import Feed

    found: dict[str, Any] = {}
    for name, database in databases.items():
        try:
            async with database.read() as tx:
                epoch, revision = await Feed(database).position(tx)
            found[name] = {"revision": revision, "epoch": epoch}
        except Exception as error:  # noqa: BLE001 - whatever it is, the rest of the report is wanted all the more
            found[name] = {"unreadable": type(error).__name__}
    return found
