"""The release before this one, taken out of git: its real servers, in the same virtual environment."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from tests.e2e.processes import ROOT

_ROW = re.compile(r"^\| (\S+) \| `([0-9a-f]{40})` \|", re.MULTILINE)


def unpack(folder: Path) -> Path:
    """Put the packages of the release before into ``folder``; returns what to set PYTHONPATH to."""
    named = _ROW.search((ROOT / "docs/releases.md").read_text())
    assert named is not None, "docs/releases.md names no release with its commit"
    version, commit = named.groups()
    command = ["git", "-C", str(ROOT), "archive", commit, "junctor", "services", "gateway_http"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.fail(
            f"the code of junctor {version} (commit {commit}, named in docs/releases.md) cannot be taken out of git: "
            f"{done.stderr.decode().strip()}. This test runs the release before on the present schema and needs the "
            "project's history: run the tests in a clone of it; if it is shallow, `git fetch --unshallow` first"
        )
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    command = [sys.executable, "-c", "import services; print(services.__file__)"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(folder)}, cwd="/")
    assert ran.stdout.strip() == str(folder / "services/__init__.py"), "the installed code comes first"
    return folder
