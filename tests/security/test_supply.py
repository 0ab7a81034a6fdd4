"""What junctor is made of: every package is pinned with its hashes, declared, used, and in the SBOM."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock")
IMPLIED = {"greenlet", "uvloop", "aiosqlite", "asyncpg", "grpcio-status", "hatchling", "editables"}
"""Taken in by name by another package, or needed to build."""


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sbom", ROOT / "deploy" / "sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sbom"] = module
    spec.loader.exec_module(module)
    return module


sbom = _load()


def project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


def declared() -> set[str]:
    found = [*project()["dependencies"], *project()["optional-dependencies"]["server"]]
    return {sbom._name_in(text) for text in found}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_is_pinned_with_hashes(lock: str) -> None:
    found = list(sbom.pins(ROOT / lock))
    assert len(found) > 30
    assert len({pin.name for pin in found}) == len(found)
    for pin in found:
        assert pin.hashes, pin.name
        assert re.fullmatch(r"[0-9][0-9A-Za-z.!+]*", pin.version), pin
        assert not re.search(r"(a|b|rc|dev)\d", pin.version), f"{pin.name} is no release"


def test_the_locks_agree() -> None:
    server, dev = ({pin.name: pin for pin in sbom.pins(ROOT / lock)} for lock in LOCKS)
    assert {name: pin.version for name, pin in server.items()}.items() <= {n: p.version for n, p in dev.items()}.items()


def test_what_is_declared_is_locked() -> None:
    assert declared() <= {pin.name for pin in sbom.pins()}


def imported() -> dict[str, str]:
    """Distribution of every package outside the standard library that the product's code imports; and where."""
    owners = metadata.packages_distributions()
    found: dict[str, str] = {}
    for folder in ("junctor", "services", "gateway_http"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names = [node.module]
                for name in names:
                    top = name.partition(".")[0]
                    if top in sys.stdlib_module_names or top in ("junctor", "services", "gateway_http"):
                        continue
                    owner = _owner(name, owners)
                    found[owner] = f"{path.relative_to(ROOT)}: {name}"
    return found


def _owner(name: str, owners: Any) -> str:
    if name.startswith("google."):
        return "protobuf" if name.startswith("google.protobuf") else "googleapis-common-protos"
    return str(sbom._normal(owners[name.partition(".")[0]][0])) if name.partition(".")[0] in owners else name


def test_what_is_imported_is_declared_or_comes_with_what_is() -> None:
    locked = {pin.name for pin in sbom.pins()}
    optional = {"openai"}
    unknown = {owner: where for owner, where in imported().items() if owner not in locked | optional}
    assert unknown == {}


def test_nothing_is_declared_that_is_not_used() -> None:
    assert declared() - set(imported()) - IMPLIED == set()


def test_nothing_is_locked_that_nobody_needs() -> None:
    made = sbom.document()
    needs = {entry["ref"]: entry["dependsOn"] for entry in made["dependencies"]}
    reached, open_ends = set(), [made["metadata"]["component"]["bom-ref"]]
    while open_ends:
        ref = open_ends.pop()
        if ref not in reached:
            reached.add(ref)
            open_ends += needs.get(ref, [])
    optional = {entry["bom-ref"] for entry in made["components"] if "properties" in entry}
    rest = {entry["name"] for entry in made["components"] if entry["bom-ref"] not in reached | optional}
    assert rest <= BUILD | EXTRAS


BUILD = {"hatchling", "tomlkit", "editables", "packaging", "pathspec", "pluggy", "trove-classifiers"}
EXTRAS = {"tomli", "colorama", "tzdata", "async-timeout", "exceptiongroup", "grpcio-tools"}


def test_the_sbom_is_valid_complete_and_the_same_each_time() -> None:
    command = [sys.executable, str(ROOT / "deploy" / "sbom.py")]
    first, second = (subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2))
    assert first == second
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(first) is None
    made = json.loads(first)
    assert {entry["purl"] for entry in made["components"]} == {pin.purl for pin in sbom.pins()}
    for entry in made["components"]:
        assert entry["externalReferences"][0]["hashes"]
    assert sum("licenses" in entry for entry in made["components"]) > 0.9 * len(made["components"])
