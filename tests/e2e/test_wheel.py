"""The wheel as its users get it: what is in it, what its base install needs, and that it serves with ``[server]``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("junctor", "services", "gateway_http")

BASE_INSTALL = """
import importlib.metadata, sys
from importlib.abc import MetaPathFinder

wheel, allowed = sys.argv[1], set(sys.argv[2].split(","))

class OnlyTheBaseInstall(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

refused = {
    module
    for module, owners in importlib.metadata.packages_distributions().items()
    if not any(owner.lower().replace("_", "-") in allowed for owner in owners)
}
sys.path.insert(0, wheel)
sys.meta_path.insert(0, OnlyTheBaseInstall())
sys.argv = ["junctor", *sys.argv[3:]]
"""
"""Makes a process see the wheel and the distributions named, and nothing else that happens to be installed."""


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    built = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ".", cwd=ROOT)
    assert built.returncode == 0, built.stderr
    return next(folder.glob("junctor-*.whl"))


@pytest.fixture(scope="module")
def base(wheel: Path) -> str:
    """Distributions of a base install: the wheel's own requirements, and theirs, without extras."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        lines = message_from_bytes(archive.read(name)).get_all("Requires-Dist", [])
    found, todo = set[str](), [*lines]
    while todo:
        line = todo.pop()
        distribution = re.split(r"[^\w.-]", line)[0].lower().replace("_", "-")
        if "extra ==" in line or distribution in found:
            continue
        found.add(distribution)
        try:
            todo += requires(distribution) or []
        except PackageNotFoundError:  # one for other platforms or Pythons
            found.discard(distribution)
    return ",".join(sorted(found | {"junctor"}))


def in_base(wheel: Path, base: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    call = BASE_INSTALL + "from junctor.cli import main\nmain()\n"
    return run(sys.executable, "-c", call, wheel, base, *arguments, cwd=folder)


def test_holds_the_three_packages_and_the_contract_and_nothing_else(wheel: Path) -> None:
    expected = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    expected |= {f"junctor/{path.relative_to(ROOT)}" for path in (ROOT / "protos").rglob("*.proto")}
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == expected


@pytest.mark.parametrize(
    "name",
    [
        "junctor/py.typed",
        "junctor/v1/inference_pb2.pyi",
        "junctor/protos/junctor/v1/inference.proto",
        "services/access_control/migrations/versions/0001_workspaces.py",
    ],
)
def test_holds_what_is_no_module(wheel: Path, name: str) -> None:
    assert name in zipfile.ZipFile(wheel).namelist()


def test_import_of_the_client_loads_no_server_package(wheel: Path, base: str, tmp_path: Path) -> None:
    code = BASE_INSTALL + "import junctor, junctor.cli, junctor.cli.app\nprint(*sorted(sys.modules))"
    shown = run(sys.executable, "-c", code, wheel, base, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    loaded = {name.partition(".")[0] for name in shown.stdout.split()}
    assert "junctor" in loaded
    assert not loaded & {"services", "gateway_http", "fastapi", "starlette", "sqlalchemy", "uvloop", "uvicorn", "grpc"}


def test_help_lists_the_server_commands_on_a_base_install(wheel: Path, base: str, tmp_path: Path) -> None:
    shown = in_base(wheel, base, tmp_path, "--help")
    assert shown.returncode == 0, shown.stderr
    assert "  chat " in shown.stdout
    assert "  up " in shown.stdout


def test_protos_are_exported_from_a_base_install(wheel: Path, base: str, tmp_path: Path) -> None:
    code = (
        BASE_INSTALL + "sys.path.remove(wheel)\nsys.path.insert(0, 'unpacked')\nfrom junctor.cli import main\nmain()\n"
    )
    zipfile.ZipFile(wheel).extractall(tmp_path / "unpacked")
    shown = run(sys.executable, "-c", code, wheel, base, "protos", "export", "out", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    written = {path.name for path in (tmp_path / "out" / "junctor" / "v1").iterdir()}
    assert written == {path.name for path in (ROOT / "protos" / "junctor" / "v1").iterdir()}
    assert (tmp_path / "out" / "descriptor_set.binpb").stat().st_size


@pytest.mark.parametrize("command", ["up", "demo-provider"])
def test_server_commands_say_what_to_install(wheel: Path, base: str, tmp_path: Path, command: str) -> None:
    shown = in_base(wheel, base, tmp_path, command)
    assert shown.returncode == 1
    assert shown.stderr == f"junctor: '{command}' needs the server packages: pip install 'junctor[server]'\n"


def test_junctord_says_what_to_install(wheel: Path, base: str, tmp_path: Path) -> None:
    code = BASE_INSTALL + "from services.junctord import main\nmain()\n"
    shown = run(sys.executable, "-c", code, wheel, base, "gateway", cwd=tmp_path)
    assert shown.returncode == 1
    assert shown.stderr == "junctor: 'junctord' needs the server packages: pip install 'junctor[server]'\n"


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a new virtual environment with ``junctor[server]`` from the index."""
    folder = tmp_path_factory.mktemp("installed")
    assert run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder).returncode == 0
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-qq")
    pip += ("--python", str(folder / "venv" / "bin" / "python"))
    probe = run(*pip, "download", "--no-deps", "--dest", folder / "probe", "h11", cwd=folder)
    if probe.returncode:
        pytest.skip(f"NO PACKAGE INDEX, the wheel was not installed: {probe.stderr.strip()[-200:]}")
    done = run(*pip, "install", "--no-compile", f"{wheel}[server]", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "venv" / "bin"


@pytest.fixture
def url(installed: Path, tmp_path: Path) -> Iterator[str]:
    """A ``junctor up`` of the installed wheel, in a folder that is no checkout."""
    flags = ("--port", "0", "--grpc-port", "0", "--no-detect")
    with subprocess.Popen(
        [installed / "junctor", "up", *flags],
        cwd=tmp_path,
        env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            ready = next((line for line in process.stdout if " is ready on " in line), "")
            assert ready, "junctor up ended before it was ready"
            yield ready.split()[-1]
        finally:
            process.terminate()
            process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.mark.compat
def test_the_installed_wheel_serves(url: str, installed: Path, tmp_path: Path) -> None:
    assert httpx.get(f"{url}/health/ready", trust_env=False).status_code == 200
    shown = run(installed / "junctor", "chat", "demo-echo-1", "Hello", "--base-url", url, cwd=tmp_path)
    assert shown.stdout.startswith("You said: Hello"), shown.stderr
