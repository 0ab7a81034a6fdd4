"""``junctor admin``: commands that work on a server's data, beside the running services."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Annotated, Any

import typer

from services.admin.rotation import Rotation, RotationFailed, rotate
from services.assembly import private_files
from services.main import load
from services.provider_registry.secrets import KeyFileError
from services.runtime.db import Database, open_database
from services.runtime.db_start import StoreUnusable, opening
from services.settings import Settings

_STORE = "provider_registry"
_PROGRAM = "junctor admin rotate-keys"

command = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Maintenance of a server's data.",
)


@command.callback()
def _group() -> None:
    """Maintenance of a server's data."""


@command.command("rotate-keys")
def rotate_keys(
    data_dir: Annotated[str | None, typer.Option(help="Folder of the SQLite files. [default: ./junctor-data]")] = None,
    database_url: Annotated[str | None, typer.Option(help="postgresql://… instead of SQLite.")] = None,
    keep_old: Annotated[bool, typer.Option("--keep-old", help="Leave the old keys in the key file.")] = False,
    config: Annotated[str | None, typer.Option(help="TOML file with settings.")] = None,
) -> None:
    """Change the key that encrypts secrets, while services run.

    Adds a key to the key file (JUNCTOR_SECRET_KEY_FILE), wraps every secret anew with it and removes the old keys.
    No call fails meanwhile, no secret changes its value or version. Run it where the services run, with their
    settings: they see the change in the file. Backups made before can be read with the old keys only.

    Exit codes: 0 done, 1 could not (the old keys are still there), 2 bad usage.
    """
    flags: dict[str, Any] = {"data_dir": data_dir, "database_url": database_url, "config": config}
    settings = load(flags, ("provider-registry",), program=_PROGRAM)
    private_files()
    logging.basicConfig(handlers=[logging.NullHandler()])  # what is wrong is said once, below
    try:
        done = asyncio.run(_rotate(settings, keep_old=keep_old))
    except (KeyFileError, RotationFailed, StoreUnusable) as error:
        sys.stderr.write(f"{_PROGRAM}: {error}\n")
        raise typer.Exit(1) from None
    sys.stdout.write(_report(done))


async def _rotate(settings: Settings, *, keep_old: bool) -> Rotation:
    database = _open(settings)
    try:
        with opening(database):
            return await rotate(database, settings.secret_key_file, keep_old=keep_old)
    finally:
        await database.close()


def _open(settings: Settings) -> Database:
    if settings.database_url is not None:
        return open_database(settings.database_url, schema=_STORE)
    file = (settings.data_dir / f"{_STORE}.sqlite").absolute()
    if not file.is_file():
        raise StoreUnusable(f"there is no store {file}; name the services' folder with --data-dir")
    return open_database(f"sqlite:///{file}", schema=_STORE)


def _report(done: Rotation) -> str:
    old = f"retired {', '.join(done.retired)}" if done.retired else f"kept {', '.join(done.kept)}"
    return f"New key {done.new_key}: {done.rewrapped} secrets wrapped anew; {old}.\n"
