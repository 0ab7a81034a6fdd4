"""The releases before this one, taken out of git: their wheels, installed beside what is installed here.

``docs/releases.md`` names them. A release is built once for a test run, from its commit, by the build backend that the
development dependencies have; it needs no package index.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest

from tests.e2e.processes import ROOT
from tests.sharing import once

_ROW = re.compile(r"^\| (\d[\w.]*)(?: \(next\))? \| (?:`([0-9a-f]{40})`|–) \| ([^|]+) \| (\S+) \|$", re.MULTILINE)
_SECONDS = 120.0
"""Bound of one command; only ends one that hangs."""


@dataclass(frozen=True)
class Release:
    """A row of ``docs/releases.md``."""

    version: str
    commit: str
    """Empty: the one that is being made."""
    schemas: Mapping[str, str]
    """The newest revision of each store, by the store's name."""
    usable_from: str


def releases() -> list[Release]:
    """Every release there is, the newest, which is the present code, first."""
    rows = _ROW.findall((ROOT / "docs/releases.md").read_text())
    return [
        Release(version, commit, dict(schema.split() for schema in schemas.split(",")), usable_from)
        for version, commit, schemas, usable_from in rows
    ]


def before() -> Release:
    """The release before the present code."""
    return next(release for release in releases() if release.commit)


def installed(release: Release, shared: Path) -> Path:
    """Build the wheel of a release and install it; returns the folder of its programs.

    ``shared`` is the folder of what the processes of a test run share. The dependencies are those installed here.
    """

    def make(folder: Path) -> None:
        wheel = _wheel(release, folder)
        environment = folder / "venv"
        _run(sys.executable, "-m", "venv", "--without-pip", str(environment))
        # As a path only: a `.pth` file in there, the one of the present code among them, is not followed.
        name = Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
        (environment / name / "present.pth").write_text(sysconfig.get_path("purelib") + "\n")
        python = environment / "bin" / "python"
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python))
        _run(*pip, "install", "--quiet", "--no-deps", "--no-index", "--compile", str(wheel))
        code = "import services, importlib.metadata as m; print(services.__file__, m.version('junctor'))"
        file, version = _run(str(python), "-c", code).split()
        assert (Path(file).is_relative_to(environment), version) == (True, release.version), (file, version)

    return once(shared / f"junctor-{release.version}", make) / "venv" / "bin"


def _wheel(release: Release, folder: Path) -> Path:
    source = folder / "source"
    with tarfile.open(fileobj=BytesIO(_archive(release))) as archive:
        archive.extractall(source, filter="data")
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source))
    return next(folder.glob("junctor-*.whl"))


def _archive(release: Release) -> bytes:
    parts = ("pyproject.toml", "README.md", "LICENSE", "protos", "junctor", "services", "gateway_http")
    command = ["git", "-C", str(ROOT), "archive", release.commit, *parts]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.fail(
            f"the code of junctor {release.version} (commit {release.commit}, named in docs/releases.md) cannot be "
            f"taken out of git: {done.stderr.decode().strip()}. This test runs an earlier release and needs the "
            "project's history: run the tests in a clone of it; if it is shallow, `git fetch --unshallow` first"
        )
    return done.stdout


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False, env={}, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
