"""The project keeps its own promises: papers, locks, layers and tables agree with the code."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import gateway_http
import junctor
import services
from junctor import v1
from services.assembly import POLICY
from services.runtime.auth import Access
from services.settings import markdown_table
from services.settings_table import CLIENT_ENVS, CONFIG_ENV, SETTINGS

ROOT = Path(__file__).parents[2]
PAPERS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
READERS_OF_THE_ENVIRONMENT = {
    "services/__init__.py",  # sets grpc's own variable before grpc is imported
    "junctor/cli/output.py",  # what the terminal is: NO_COLOR, TERM, COLUMNS
    "junctor/cli/admin_port.py",  # where the port is: JUNCTOR_ADMIN_PORT, as the server has it
    "junctor/cli/importing.py",  # what os.environ/… of another gateway's file stands for
    "junctor/declare/execute.py",  # values of secrets that a file names by their variable
    "junctor/config.py",
    "services/main.py",
    "services/up/command.py",
    "services/up/detect_command.py",
}


def sources(*folders: str) -> Iterator[tuple[str, str]]:
    """Paths (from the root) and texts of the Python files below the folders, generated stubs left out."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith("junctor/v1/"):
                yield name, path.read_text()


def descriptor_services() -> dict[str, list[str]]:
    """Every gRPC service of the contract, with its RPCs."""
    found: dict[str, list[str]] = {}
    for module in pkgutil.iter_modules(v1.__path__, "junctor.v1."):
        if module.name.endswith("_pb2"):
            file = importlib.import_module(module.name).DESCRIPTOR
            found |= {it.full_name: list(it.methods_by_name) for it in file.services_by_name.values()}
    return found


def test_readme_has_the_table_of_settings() -> None:
    readme = (ROOT / "README.md").read_text()
    between = readme.partition("<!-- settings -->\n")[2].partition("<!-- /settings -->")[0]
    assert between == markdown_table()


@pytest.mark.parametrize("paper", PAPERS, ids=lambda path: path.name)
def test_papers_name_only_settings_that_exist(paper: Path) -> None:
    known = {row.env for row in SETTINGS} | set(CLIENT_ENVS) | {CONFIG_ENV}
    assert set(re.findall(r"JUNCTOR_[A-Z_]+[A-Z]", paper.read_text())) <= known


@pytest.mark.parametrize("paper", PAPERS, ids=lambda path: path.name)
def test_links_lead_somewhere(paper: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", paper.read_text())
    assert [link for link in links if not (paper.parent / link).exists()] == []


@pytest.mark.parametrize("paper", PAPERS, ids=lambda path: path.name)
def test_papers_name_only_make_targets_that_exist(paper: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", paper.read_text(), re.MULTILINE)
    assert {first or second for first, second in named} <= targets


def test_every_rpc_has_a_policy() -> None:
    found = descriptor_services()
    assert sum(len(rpcs) for rpcs in found.values()) > 30
    assert set(POLICY) == set(found)


def test_what_returns_a_secret_or_joins_stores_is_internal() -> None:
    internal = {name for name, access in POLICY.items() if access is Access.INTERNAL}
    joins = {"junctor.v1.ProviderSync", "junctor.v1.RouterPeers", "junctor.v1.AccessSync"}
    joins |= {"junctor.v1.UsageSink", "junctor.v1.Quota"}
    assert internal == {"junctor.v1.SecretAccess", *joins}


def test_every_module_of_services_has_a_layer() -> None:
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    placed = {name for layer in layers for name in re.split(r"\s*[|:]\s*", layer)}
    modules = {f"services.{module.name}" for module in pkgutil.iter_modules(services.__path__)}
    assert modules | {junctor.__name__, gateway_http.__name__} == placed


def test_only_settings_and_the_command_lines_read_the_environment() -> None:
    readers = {
        name
        for name, text in sources("junctor", "services", "gateway_http")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"}
    }
    assert readers <= READERS_OF_THE_ENVIRONMENT


@pytest.mark.parametrize("banned", [r"unittest\.mock", r"from unittest import", r"monkeypatch\.setattr"])
def test_tests_replace_nothing(banned: str) -> None:
    others = [(name, text) for name, text in sources("tests", "benchmarks") if name != "tests/unit/test_project.py"]
    assert [name for name, text in others if re.search(banned, text)] == []


def test_client_offers_what_it_lists() -> None:
    listed: list[str] = getattr(junctor, "__all__", [])
    assert sorted(set(listed)) == sorted(listed)
    missing = [name for name in listed if not hasattr(junctor, name)]
    assert not missing


def locked(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9.-]+)==([^\s;]+)", (ROOT / lock).read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("requirements.lock", PROJECT["project"]["dependencies"]),
        ("requirements.lock", PROJECT["project"]["optional-dependencies"]["server"]),
        ("requirements-dev.lock", PROJECT["project"]["dependencies"]),
        ("requirements-dev.lock", PROJECT["project"]["optional-dependencies"]["server"]),
        ("requirements-dev.lock", PROJECT["dependency-groups"]["dev"]),
    ],
    ids=["base", "server", "base-dev", "server-dev", "dev"],
)
def test_locks_hold_what_the_project_asks_for(lock: str, wanted: list[str]) -> None:
    pinned = locked(lock)
    for requirement in map(Requirement, wanted):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name}: run 'make lock'"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: run 'make lock'"


def test_one_version_in_both_locks() -> None:
    dev = locked("requirements-dev.lock")
    assert {name: dev.get(name) for name in locked("requirements.lock")} == locked("requirements.lock")
