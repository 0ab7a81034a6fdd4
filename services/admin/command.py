"""``junctor admin``: commands that work on a server's data, or on its processes, beside the running services."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Annotated, Any

import typer

from junctor.cli.admin_port import Admin, TokenFile, ports
from junctor.cli.failure import Failure
from services.admin import backup_command
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
    help="Maintenance of a server: its data, its logs.",
)


backup_command.add_to(command)


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


@command.command("log-level")
def log_level(
    level: Annotated[str, typer.Argument(help="debug, info, warning, error; none: show.", show_default=False)] = "",
    logger: Annotated[str, typer.Option("--logger", help="Only this one, such as services.inference_router.")] = "",
    seconds: Annotated[float | None, typer.Option("--for", help="Seconds after which it goes back.")] = None,
    admin: Admin = None,
    token_file: TokenFile = "",
) -> None:
    """Show or change how much running processes log, without a restart.

    Exit codes: 0 done, 1 a process could not be asked or refused, 2 bad usage.
    """
    body = {"level": level, "logger": logger} | ({} if seconds is None else {"seconds": seconds})
    _ask("log-level", body if level else None, admin, token_file)


@command.command("sampling")
def sampling(  # noqa: PLR0913, PLR0917 - one parameter per flag
    request_id: Annotated[list[str] | None, typer.Option("--request-id", help="Of this id; repeatable.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="With this tag.")] = None,
    key: Annotated[list[str] | None, typer.Option("--key", help="By this API key's id, or principal.")] = None,
    share: Annotated[float, typer.Option("--share", help="Share of them, above 0 to 1.")] = 1.0,
    seconds: Annotated[float, typer.Option("--for", help="Seconds for which it holds.")] = 600.0,
    off: Annotated[bool, typer.Option("--off", help="No longer.")] = False,
    admin: Admin = None,
    token_file: TokenFile = "",
) -> None:
    """Show or choose the requests that running routers write down in detail, without a restart.

    A line "request in detail" of the logger services.sampled tells route, attempts and times, never content. What is
    chosen takes the place of what was.

    Exit codes: 0 done, 1 a process could not be asked or refused, 2 bad usage.
    """
    chosen = [("request-id", request_id), ("tag", tag), ("key", key)]
    common = {"share": share, "seconds": seconds}
    rules = [{"by": by, "value": value, **common} for by, values in chosen for value in values or ()]
    if off and rules:
        raise typer.BadParameter("is not given together with what to write down", param_hint="--off")
    _ask("sampling", {"rules": rules} if rules or off else None, admin, token_file)


def _ask(question: str, body: Any, admin: list[str] | None, token_file: str) -> None:
    """Ask every process and print what each says."""
    failed = False
    told: dict[str, Any] = {}
    try:
        for port in ports(admin, token_file):
            try:
                told[port.url] = port.debug(question, body)
            except Failure as failure:
                sys.stderr.write(f"junctor admin {question}: {failure}\n")
                failed = True
    except Failure as failure:
        sys.stderr.write(f"junctor admin {question}: {failure}\n")
        raise typer.Exit(1) from None
    if told:
        sys.stdout.write(json.dumps(told, ensure_ascii=False, indent=2) + "\n")
    if failed:
        raise typer.Exit(1)


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
