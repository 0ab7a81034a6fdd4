"""The Dockerfile: judged by a linter, and its steps followed without a container engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.settings_table import PORTS, SETTINGS
from tests.cluster import until
from tests.compat import environments
from tests.deploy.conftest import Tools
from tests.deploy.image import ROOT, Instruction, image, stages
from tests.e2e.processes import free_port

pytestmark = pytest.mark.long

STEP_SECONDS = 600.0
"""Bound of one RUN; only ends one that hangs."""


@dataclass(frozen=True)
class Built:
    """What the Dockerfile's steps made, below a folder instead of ``/``."""

    root: Path

    def placed(self, text: str) -> str:
        """A command or a value with the image's paths below the folder."""
        return re.sub(r"(?<![\w./])/(opt/junctor|src|dist|var/lib/junctor)\b", rf"{self.root}/\1", text)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Follow the first stage as it is written: its ENV, COPY and RUN lines, with this Python for the image's."""
    made = Built(tmp_path_factory.mktemp("image"))
    environ = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(made.root),
        "PIP_NO_COMPILE": "false",
    }
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.endswith("_PROXY")}
    for step in stages()[0]:
        if step.word == "ENV":
            environ |= step.pairs
        elif step.word == "WORKDIR":
            Path(made.placed(step.text)).mkdir()
        elif step.word == "COPY":
            _copy(step, made.root / "src")
        elif step.word == "RUN":
            _run(made.placed(step.text), made.root / "src", kept | environ)
    return made


@pytest.mark.compat
def test_the_linter_finds_nothing(tools: Tools) -> None:
    assert tools.run("hadolint", ROOT / "Dockerfile") == ""


def test_it_builds_in_one_stage_and_runs_as_nobody_in_another() -> None:
    build, final = stages()

    assert build[0].text.endswith(" AS build")
    assert [step.text for step in final if step.word == "COPY"] == ["--from=build /opt/junctor /opt/junctor"]
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", image().user), "a number: Kubernetes has to see that it is not root"
    assert image().entrypoint == ["junctord"]
    assert {f"org.opencontainers.image.{name}" for name in ("title", "version", "licenses", "revision")} <= set(
        image().labels
    )


def test_every_package_is_of_the_lock_and_has_its_hash() -> None:
    (install,) = [step.text for step in stages()[0] if step.word == "RUN" and "-r requirements.lock" in step.text]
    others = [step.text for step in stages()[0] if step.word == "RUN" and "pip" in step.text and step.text != install]

    assert "--require-hashes" in install
    assert "--no-deps" in install
    for text in others:
        assert "--no-index" in text


def test_its_variables_are_settings_and_its_ports_those_of_the_services() -> None:
    variables = {name for name in image().env if name.startswith("JUNCTOR_")}

    assert variables <= {row.env for row in SETTINGS}
    assert image().exposed == {8080, int(image().env["JUNCTOR_ADMIN_PORT"]), *PORTS.values()}


def test_the_context_has_what_is_copied_and_no_more() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for step in stages()[0] if step.word == "COPY" for source in step.text.split()[:-1]}

    assert allowed == copied


@pytest.mark.compat
async def test_its_steps_give_a_junctord_that_writes_nowhere_but_in_its_data(built: Built, tmp_path: Path) -> None:
    """Takes as long as the installation of the lock: it is the only proof that the lock is complete."""
    installed = _run(f"{built.root}/opt/junctor/bin/python -c '{_LISTED}'", built.root, {"PATH": "/usr/bin:/bin"})
    assert "junctor" in installed.split()
    assert not {"pip", "hatchling", "editables"} & set(installed.split())

    environ = {name: built.placed(value) for name, value in image().env.items()}
    port, admin = free_port(), free_port()
    environ |= {"JUNCTOR_HOST": "127.0.0.1", "JUNCTOR_GRPC_HOST": "127.0.0.1", "JUNCTOR_ADMIN_PORT": str(admin)}
    environ |= {"JUNCTOR_GRPC_PORT": str(port), "JUNCTOR_SEED": "false"}
    data = Path(built.placed("/var/lib/junctor"))
    data.mkdir(parents=True)
    before = _files(built.root)
    everything = list(PORTS)
    command = [f"{built.root}/opt/junctor/bin/{image().entrypoint[0]}", *everything]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(_read_only(command, data), cwd=data, env=environ, stdout=log, stderr=log) as process,
    ):
        try:
            await until(lambda: _healthy(process, built, admin, tmp_path), seconds=60)
        finally:
            process.terminate()
            assert process.wait(60) == 0, (tmp_path / "log").read_text()
    assert _files(built.root) == before, "files outside of the data folder"
    assert list((data / "data").iterdir())


_LISTED = "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"


def _copy(step: Instruction, folder: Path) -> None:
    *sources, to = step.text.split()
    for source in sources:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, folder / to, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, folder / to)


def _run(command: str, folder: Path, environ: dict[str, str]) -> str:
    done = subprocess.run(
        ["sh", "-ec", command],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=STEP_SECONDS,
        check=False,
    )
    said = done.stdout + done.stderr
    if done.returncode and any(sign in said for sign in environments._NO_NETWORK):
        pytest.skip("IMAGE NOT BUILT: the package index cannot be reached")
    assert done.returncode == 0, f"{command}:\n{said[-4000:]}"
    return done.stdout


def _read_only(command: list[str], data: Path) -> list[str]:
    """The command with everything but ``data`` mounted read-only, where this user may mount; else as it is."""
    may = shutil.which("unshare") and subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True)
    if not may or may.returncode:
        return command
    script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind / && exec "$@"'
    return ["unshare", "-m", "sh", "-ec", script, str(data), *command]


async def _healthy(process: subprocess.Popen[bytes], built: Built, admin: int, folder: Path) -> bool:
    """Run the image's health check."""
    assert process.poll() is None, (folder / "log").read_text()
    program, *arguments = image().health
    arguments = [part.replace("127.0.0.1:9464", f"127.0.0.1:{admin}") for part in arguments]
    command = [f"{built.root}/opt/junctor/bin/{program}", *arguments]
    return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 0


def _files(root: Path) -> set[str]:
    """Every file but those of the data folder."""
    data = root / "var"
    return {str(path) for path in root.rglob("*") if data not in path.parents and path.suffix != ".pyc"}
