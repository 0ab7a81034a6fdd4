"""docs/compatibility.md: its tests exist, its versions are those of the locks, no client's test is left out."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPAT = ROOT / "tests" / "compat"
PAGE = (ROOT / "docs" / "compatibility.md").read_text()
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| client")
]
NAMED = sorted({name for row in ROWS for name in re.findall(r"`(\w+\.(?:py::\w+|sh))`", row[3])})
WITHOUT_LOCK = {"", "the system's", "Debian's", "as above"}


def locked(name: str) -> str:
    """Return the version of a client that the tests install."""
    if name == "openai (npm)":
        packages = json.loads((COMPAT / "clients" / "node" / "package-lock.json").read_text())["packages"]
        return str(packages["node_modules/openai"]["version"])
    lock = {
        "nemo-platform": COMPAT / "requirements-nemo.lock",
        "grpcio": ROOT / "requirements-dev.lock",
    }.get(name, COMPAT / "requirements-vendors.lock")
    found = re.search(rf"^{re.escape(name)}==([^\s;]+)", lock.read_text(), re.MULTILINE)
    assert found, f"{name} is not in {lock.name}"
    return found[1]


@pytest.mark.parametrize("name", NAMED)
def test_every_test_that_the_page_names_exists(name: str) -> None:
    file, _, function = name.partition("::")
    source = (COMPAT / file).read_text()
    defined = [] if not function else [node.name for node in ast.parse(source).body if hasattr(node, "name")]
    assert not function or function in defined


@pytest.mark.parametrize("row", [row for row in ROWS if row[1] not in WITHOUT_LOCK], ids=lambda row: row[0])
def test_every_version_is_the_one_installed(row: list[str]) -> None:
    name, _, version = row[1].rpartition(" ")
    assert version == locked(name)


def test_every_client_of_the_tests_is_on_the_page() -> None:
    assert {name.partition("::")[0] for name in NAMED} == {
        "interop.sh",
        *(path.name for path in COMPAT.glob("test_*.py")),
    }
    assert all(re.search(r"`\w+\.(py|sh)", row[3]) for row in ROWS)
