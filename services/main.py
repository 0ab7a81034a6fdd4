"""``junctord SERVICE…``: runs one or more services as one process, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import errno
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, NoReturn, TypeVar

import uvloop

from services.assembly import Node, private_files
from services.runtime import telemetry
from services.runtime.failures import CannotStart
from services.runtime.limits import raise_open_files, settle_heap
from services.runtime.server import BindError
from services.settings import Settings, SettingsError, add_flags
from services.settings_table import GATEWAY, PORTS
from services.up.ports import taken
from services.workers import Supervisor

_log = logging.getLogger(__name__)

_SETTLE_SECONDS = 2.0
"""When everything is imported and started."""

_EPILOG = """examples:
  junctord model-registry --grpc-port 50052
  junctord inference-router gateway --port 8080
  junctord gateway --print-config
  junctord model-registry migrate --database-url postgresql://db/junctor
"""

_MIGRATE = "migrate"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line. Exits 0 after a drain, 1 when it cannot start, 2 for bad usage."""
    parser = argparse.ArgumentParser(
        prog="junctord",
        description="Run junctor services: each alone as its own process, or several in one.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "services",
        nargs="+",
        choices=(*PORTS, GATEWAY, _MIGRATE),
        metavar="SERVICE",
        help=", ".join((*PORTS, GATEWAY)) + "; with 'migrate' after them their databases are migrated instead",
    )
    parser.add_argument("--version", action="version", version=f"junctord {version('junctor')}")
    add_flags(parser)
    flags = vars(parser.parse_args(argv))
    if _MIGRATE in flags["services"]:
        _migrate(parser, flags)
    settings = load(flags, tuple(dict.fromkeys(flags["services"])), program="junctord")
    sys.exit(run(settings, _serve, make=partial(make_site, flags=flags)))


def _migrate(parser: argparse.ArgumentParser, flags: dict[str, Any]) -> NoReturn:
    """Run ``junctord SERVICE… migrate``. Exits 0 when it is done, 1 when it could not, 2 for bad usage."""
    from services.migrate import MIGRATIONS, migrate

    *services, last = dict.fromkeys(flags["services"])
    if last != _MIGRATE or not services:
        parser.error("'migrate' comes after the services: junctord model-registry migrate")
    if without := [name for name in services if name not in MIGRATIONS]:
        parser.error(f"{without[0]} has no database to migrate; these have: {', '.join(MIGRATIONS)}")
    sys.exit(migrate(load(flags, tuple(services), program="junctord"), services))


def load(flags: dict[str, object], services: tuple[str, ...], *, program: str) -> Settings:
    """Load the settings, or print every problem and exit 2; prints them and exits 0 for ``--print-config``."""
    try:
        settings = Settings.load(flags, os.environ, services=services)
    except SettingsError as error:
        for problem in error.problems:
            sys.stderr.write(f"{program}: {problem}\n")
        sys.exit(2)
    if flags.get("print_config"):
        sys.stdout.write(settings.render())
        sys.exit(0)
    return settings


Site = Node | Supervisor
"""What a command runs: everything in this process, or workers."""
SiteT = TypeVar("SiteT", Node, Supervisor, Site)
Work = Callable[[SiteT, asyncio.Event], Awaitable[None]]
"""Starts the site, and returns once the event is set."""


def make_site(settings: Settings, flags: Mapping[str, object]) -> Site:
    """Make what the settings ask for. ``flags`` are those they were loaded with."""
    return Supervisor(settings, flags) if settings.workers > 1 else Node(settings)


def run(settings: Settings, work: Work[SiteT], *, make: Callable[[Settings], SiteT]) -> int:
    """Run ``work`` on what ``make`` makes until it ends or a signal sets its event, then drain; returns the exit code.

    A second signal ends the process at once, with 128 and the signal's number as shells have it.
    """
    private_files()
    raise_open_files()
    redactor = telemetry.configure(level=settings.log.level, form=settings.log.format)
    for name in settings.unknown:
        _log.warning("%s is not a setting", name)
    for exposure in settings.exposures:
        _log.warning("%s", exposure)
    try:
        uvloop.run(_until_signal(make, settings, redactor, work))
    except (CannotStart, OSError) as error:
        sys.stderr.write(f"junctor: {explain(error)}\n")
        return 1
    return 0


def explain(error: Exception) -> str:
    """Say in one line why the process cannot start and what to do."""
    if isinstance(error, BindError):
        if error.errno == errno.EADDRINUSE:
            return taken(error.port, error.flag)
        return f"{error}; use {_HOST_FLAGS[error.flag]}"
    if isinstance(error, OSError) and error.filename:
        return f"cannot use {error.filename}: {error.strerror}; choose another place with --data-dir"
    return str(error)


_HOST_FLAGS = {
    "--port": "--host",
    "--grpc-port": "--grpc-host",
    "--admin-port": "--grpc-host",
    "--peer-port": "--grpc-host",
}


def hush_terminal(settings: Settings) -> None:
    """Keep a terminal for the screen of ``up`` and for what needs a look, unless a level was asked for."""
    if settings.origins["log_level"] == "default" and sys.stderr.isatty():
        for name in ("services", "gateway_http"):
            logging.getLogger(name).setLevel(logging.WARNING)


async def _until_signal(
    make: Callable[[Settings], SiteT], settings: Settings, redactor: telemetry.Redactor, work: Work[SiteT]
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    site = make(settings)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _stop_or_end, stop, site, number)
    loop.call_later(_SETTLE_SECONDS, settle_heap)
    for secret in site.secrets:
        redactor.register(secret)
    try:
        await work(site, stop)
    finally:
        await site.stop()


def _stop_or_end(stop: asyncio.Event, site: Site, number: int) -> None:
    if stop.is_set():
        # Nothing is lost: what was acknowledged is on disk, and what is cut now was told to be cut.
        site.end_now()
        os._exit(128 + number)
    stop.set()


async def _serve(site: Site, stop: asyncio.Event) -> None:
    await site.start()
    fields = {"grpc_port": site.grpc_port, "port": site.http_port, "workers": site.settings.workers}
    _log.info("serving %s", ", ".join(site.names), extra=fields)
    await stop.wait()
    _log.info("stopping")
