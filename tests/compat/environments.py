"""Environments of the real clients: made once from locks with hashes, kept in the user's cache.

``JUNCTOR_COMPAT_CACHE`` names another folder. An index that cannot be reached is :class:`Unreachable`; every other
failure of an installation is an error, a hash that does not match among them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
INSTALL_SECONDS = 1200.0
"""Bound of one installation; only ends one that hangs."""

_NO_NETWORK = (
    "NewConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ProxyError",
    "NameResolutionError",
    "Temporary failure in name resolution",
    "ENOTFOUND",
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ETIMEDOUT",
)


class Unreachable(Exception):
    """The package index cannot be reached, or the program that would ask it is not there."""


def python_with(name: str) -> Path:
    """Return the interpreter of the environment that ``requirements-<name>.lock`` describes."""
    lock = HERE / f"requirements-{name}.lock"

    def build(folder: Path) -> None:
        _run(sys.executable, "-m", "venv", str(folder))
        pip = (str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
        _run(*pip, "--retries", "1", "--no-deps", "--require-hashes", "--requirement", str(lock))

    return _cached(name, lock, build) / "bin" / "python"


def node_with_openai() -> Path:
    """Return a folder in which Node finds the ``openai`` package of ``clients/node/package-lock.json``."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise Unreachable("node and npm are not installed")
    source = HERE / "clients" / "node"

    def build(folder: Path) -> None:
        folder.mkdir(parents=True)
        for file in ("package.json", "package-lock.json"):
            shutil.copy(source / file, folder / file)
        _run(npm, "ci", "--no-audit", "--no-fund", "--fetch-retries=1", cwd=folder)

    return _cached("node", source / "package-lock.json", build)


def _cached(name: str, lock: Path, build: Callable[[Path], None]) -> Path:
    home = Path(os.environ.get("JUNCTOR_COMPAT_CACHE") or Path.home() / ".cache" / "junctor" / "compat")
    key = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = home / f"{name}-{key}"
    complete = folder / ".complete"
    home.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(home / f"{name}.lock"):
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            build(folder)
            complete.touch()
    return folder


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(*command: str, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    if done.returncode == 0:
        return
    said = done.stdout + done.stderr
    if any(sign in said for sign in _NO_NETWORK):
        raise Unreachable(f"the package index cannot be reached ({Path(command[0]).name})")
    raise RuntimeError(f"{' '.join(command)} failed:\n{said[-4000:]}")
