"""``junctord SERVICE…``: runs one or more services as one process, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import errno
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version

import uvloop

from services.assembly import Node, private_files
from services.runtime import telemetry
from services.runtime.auth import TokenFileError
from services.runtime.limits import raise_open_files
from services.runtime.server import BindError
from services.settings import Settings, SettingsError, add_flags
from services.settings_table import GATEWAY, PORTS
from services.up.ports import taken

_log = logging.getLogger(__name__)

_EPILOG = """examples:
  junctord model-registry --grpc-port 50052
  junctord inference-router gateway --port 8080
  junctord gateway --print-config
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line. Exits 0 after a drain, 1 when it cannot start, 2 for bad usage."""
    parser = argparse.ArgumentParser(
        prog="junctord",
        description="Run junctor services: each alone as its own process, or several in one.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "services", nargs="+", choices=(*PORTS, GATEWAY), metavar="SERVICE", help=", ".join((*PORTS, GATEWAY))
    )
    parser.add_argument("--version", action="version", version=f"junctord {version('junctor')}")
    add_flags(parser)
    flags = vars(parser.parse_args(argv))
    settings = load(flags, tuple(dict.fromkeys(flags["services"])), program="junctord")
    sys.exit(run(settings, _serve))


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


def run(settings: Settings, work: Callable[[Settings, asyncio.Event], Awaitable[None]]) -> int:
    """Run ``work`` until it ends or a signal sets its event; returns the exit code."""
    private_files()
    raise_open_files()
    telemetry.configure(level=settings.log.level, form=settings.log.format)
    for name in settings.unknown:
        _log.warning("%s is not a setting", name)
    try:
        uvloop.run(_until_signal(settings, work))
    except (BindError, TokenFileError, OSError) as error:
        sys.stderr.write(f"junctor: {explain(error)}\n")
        return 1
    return 0


def explain(error: Exception) -> str:
    """Say in one line why the process cannot start and what to do."""
    if isinstance(error, BindError):
        if error.errno == errno.EADDRINUSE:
            return taken(error.port, error.flag)
        return f"{error}; use {error.flag.replace('port', 'host')}"
    if isinstance(error, OSError) and error.filename:
        return f"cannot write to {error.filename}: {error.strerror}; use --data-dir"
    return str(error)


async def _until_signal(settings: Settings, work: Callable[[Settings, asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await work(settings, stop)


async def _serve(settings: Settings, stop: asyncio.Event) -> None:
    node = Node(settings)
    try:
        await node.start()
        _log.info("serving %s", ", ".join(node.names), extra={"grpc_port": node.grpc_port, "port": node.http_port})
        await stop.wait()
        _log.info("stopping")
    finally:
        await node.stop()
