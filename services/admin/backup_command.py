"""``junctor admin backup``, ``restore`` and ``new-epoch``: see docs/backup.md."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from services.admin.backup import STORES, BackupFailed, Manifest, back_up, read_manifest, restore
from services.assembly import private_files
from services.main import load
from services.runtime.changes import Feed
from services.runtime.db_start import StoreUnusable, opening, place_of
from services.runtime.keyring import KeyFileError, Keyring
from services.runtime.schema import schema_of
from services.settings import Settings
from services.stores import open_store

DataDir = Annotated[str | None, typer.Option(help="Folder of the SQLite files. [default: ./junctor-data]")]
DatabaseUrl = Annotated[str | None, typer.Option(help="postgresql://… instead of SQLite.")]
Config = Annotated[str | None, typer.Option(help="TOML file with settings.")]
SERVICES = ("access-control", "model-registry", "provider-registry")
"""Those that have stores."""


def add_to(command: typer.Typer) -> None:
    """Put the commands into a group."""
    named: dict[str, Callable[..., None]] = {"backup": backup_command, "restore": restore_command, "new-epoch": renew}
    for name, function in named.items():
        command.command(name)(function)


def backup_command(
    folder: Annotated[Path, typer.Argument(help="Where to: a folder that is not there yet, or empty.")],
    data_dir: Annotated[
        list[Path] | None, typer.Option(help="Folder of SQLite files, repeatable. [default: ./junctor-data]")
    ] = None,
    config: Config = None,
) -> None:
    """Copy one state of all stores (SQLite) into a folder, while services run.

    No call fails meanwhile. The keys of secrets and the service token are named, not copied: keep them elsewhere.
    With PostgreSQL use pg_dump: docs/backup.md.

    Exit codes: 0 done, 1 could not, 2 bad usage.
    """
    with _told("backup"):
        settings = _settings("backup", config=config)
        _require_sqlite(settings)
        places = data_dir or [settings.data_dir]
        files = ((store, place / f"{store}.sqlite") for place in places for store in STORES)
        found = {store: file for store, file in files if file.is_file()}
        if not found:
            named = ", ".join(map(str, places))
            raise BackupFailed(f"there is no store in {named}; name the services' folders with --data-dir")
        done = back_up(found, folder, _not_included(settings))
        sys.stdout.write(_report(done, folder))


def restore_command(
    folder: Annotated[Path, typer.Argument(help="A folder that backup made.")],
    data_dir: DataDir = None,
    config: Config = None,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Also when secrets will be unreadable, as their keys are lost.")
    ] = False,
) -> None:
    """Put the stores of a backup into a data folder that has none, before services start.

    What was read of the lost stores is told apart from now on: a Watch token of theirs is refused.

    Exit codes: 0 done, 1 could not (nothing was changed), 2 bad usage.
    """
    with _told("restore"):
        settings = _settings("restore", data_dir=data_dir, config=config)
        _require_sqlite(settings)
        manifest = read_manifest(folder)
        missing = _missing_keys(manifest, settings.secret_key_file)
        if missing and not without_keys:
            raise BackupFailed(
                f"{settings.secret_key_file} lacks the keys that the backup's secrets need ({', '.join(missing)}): "
                "put that file back first, or go on with --without-keys and set the secrets' values anew"
            )
        restore(folder, manifest, settings.data_dir)
        for name, store in manifest.stores.items():
            sys.stdout.write(f"{name}: revision {store.revision}, schema {store.schema}, with a new epoch\n")
        sys.stdout.write(f"Restored into {settings.data_dir} as of {manifest.taken_at}.\n")


def renew(
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    config: Config = None,
) -> None:
    """Tell a restored store apart from the one that was lost: after pg_restore, before services start.

    Without it a Watch token of the lost store could be taken for one of the restored store, and changes be skipped.
    ``restore`` does the same by itself.

    Exit codes: 0 done, 1 could not, 2 bad usage.
    """
    with _told("new-epoch"):
        settings = _settings("new-epoch", data_dir=data_dir, database_url=database_url, config=config)
        for store in (store.replace("_", "-") for store in STORES):
            sys.stdout.write(f"{store}: {asyncio.run(_renew(settings, store))}\n")


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Say in one line what went wrong."""
    private_files()
    logging.basicConfig(handlers=[logging.NullHandler()])
    try:
        yield
    except (BackupFailed, StoreUnusable, KeyFileError, OSError, sqlite3.Error) as error:
        sys.stderr.write(f"junctor admin {name}: {error}\n")
        raise typer.Exit(1) from None


def _settings(name: str, **flags: Any) -> Settings:
    return load(flags, SERVICES, program=f"junctor admin {name}")


def _require_sqlite(settings: Settings) -> None:
    if settings.database_url is not None:
        raise BackupFailed("the stores are in PostgreSQL: use pg_dump and pg_restore, then new-epoch (docs/backup.md)")


async def _renew(settings: Settings, service: str) -> str:
    if settings.database_url is None and not (settings.data_dir / f"{service.replace('-', '_')}.sqlite").is_file():
        return "no store here"
    database = open_store(settings, service)
    try:
        with opening(database):
            async with database.write() as tx:
                if not (await tx.run_sync(schema_of)).revision:
                    return "no store here"  # the release that the dump is of had none
                epoch = await Feed(database).renew_epoch(tx)
        return f"{place_of(database)}: its epoch is {epoch}"
    finally:
        await database.close()


def _not_included(settings: Settings) -> dict[str, str]:
    return {
        "JUNCTOR_SECRET_KEY_FILE": str(settings.secret_key_file.absolute()),
        "JUNCTOR_SERVICE_TOKEN_FILE": str(settings.service_token_file.absolute()),
    }


def _missing_keys(manifest: Manifest, key_file: Path) -> list[str]:
    if not manifest.keys:
        return []
    there = Keyring.load(key_file).ids if key_file.exists() else ()
    return [key for key in manifest.keys if key not in there]


def _report(done: Manifest, folder: Path) -> str:
    lines = [f"{name}: revision {store.revision}, schema {store.schema}" for name, store in done.stores.items()]
    lines += [f"Backed up into {folder} as of {done.taken_at}. Not in it, and to be kept apart from it:"]
    keys = f" (keys {', '.join(done.keys)}: without them its secrets are lost)" if done.keys else ""
    key_file, token_file = done.not_included.values()
    lines += [f"  {key_file}{keys}", f"  {token_file} (can be made anew, on every process)"]
    return "\n".join(lines) + "\n"
