"""docs/deploy.md: its commands are run as far as there is no cluster, and its table names tests that are there."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.deploy.conftest import Tools
from tests.deploy.image import DEPLOY, ROOT
from tests.deploy.manifests import KUBERNETES, Manifests, pod

TEXT = (ROOT / "docs" / "deploy.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", TEXT, re.M | re.S)
COMMANDS = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
ROWS = re.findall(r"\| (?:the same|`(tests/\S+\.py)(?: -k (?:\"([^\"]+)\"|(\w+)))?`) \|$", TEXT, re.M)
OF_A_CLUSTER = ("create namespace", "delete job", "rollout status", "rollout undo", "rollback junctor")
"""What only a cluster can answer; their arguments are judged all the same."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder in which the files of the page are."""
    (tmp_path / "deploy").mkdir()
    subprocess.run(["bash", DEPLOY / "secrets.sh", tmp_path / "deploy" / "secrets"], check=True, capture_output=True)
    (tmp_path / "uri.txt").write_text("postgresql://junctor:secret@db.example:5432/junctor\n")
    return tmp_path


@pytest.mark.compat
def test_its_secrets_are_those_that_the_manifests_mount(
    tools: Tools, rendered: Callable[[Path], str], place: Path
) -> None:
    made: dict[str, set[str]] = {}
    for command in COMMANDS:
        if " create secret " in command:
            arguments = [*shlex.split(command)[1:], "--dry-run=client", "--output=yaml"]
            program = [tools.python.with_name("kubectl"), *arguments]
            done = subprocess.run(program, cwd=place, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done.stderr
            secret = yaml.safe_load(done.stdout)
            made[secret["metadata"]["name"]] = set(secret["data"])

    assert made == _mounted(Manifests.parse(rendered(KUBERNETES / "base")))


@pytest.mark.compat
@pytest.mark.parametrize("command", [one for one in COMMANDS if one.startswith(("kubectl apply", "helm upgrade"))])
def test_its_manifests_can_be_rendered(tools: Tools, command: str) -> None:
    arguments = [str(ROOT / part) if part.startswith("deploy/") else part for part in shlex.split(command)]

    if arguments[0] == "kubectl":
        assert "kind: Deployment" in tools.run("kubectl", "kustomize", arguments[-1])
    else:
        assert arguments[1:3] == ["upgrade", "--install"]
        assert "kind: Deployment" in tools.run("helm", "template", *arguments[3:])


@pytest.mark.compat
@pytest.mark.parametrize("command", [one for one in COMMANDS if any(part in one for part in OF_A_CLUSTER)])
def test_what_it_asks_of_a_cluster_names_what_is_there(
    tools: Tools, rendered: Callable[[Path], str], command: str
) -> None:
    program, *arguments = shlex.split(command.replace(" -n junctor ", " "))
    known = tools.run(program, *[part for part in arguments if re.fullmatch(r"[a-z]+", part)][:2], "--help")
    options = {part.partition("=")[0] for part in arguments if part.startswith("--")}
    prod = Manifests.parse(rendered(KUBERNETES / "overlays" / "prod"))

    assert all(option in known or option == "--namespace" for option in options)
    named = {part.rpartition("/")[2] for part in arguments if part.startswith(("junctor-", "deployment/"))}
    assert named <= {name for kind, name in prod.objects if kind in {"Deployment", "Job"}}


def test_each_command_is_one_that_a_test_runs() -> None:
    shown = ("bash deploy/secrets.sh", "kubectl apply -k", "helm upgrade --install", "docker compose -f", "curl -H")

    for command in COMMANDS:
        assert command.startswith(shown) or " create secret " in command or any(one in command for one in OF_A_CLUSTER)
    for path in re.findall(r"(?<!/)\b(?:deploy|docs)/[\w./-]+", TEXT):
        assert (ROOT / path.rstrip("./")).exists() or path.startswith(("deploy/secrets/", "deploy/.env")), path


@pytest.mark.parametrize(("path", "quoted", "bare"), [row for row in ROWS if row[0]], ids=lambda part: part)
def test_each_row_of_what_happens_names_a_test(path: str, quoted: str, bare: str) -> None:
    names = re.findall(r"^(?:async )?def (test_\w+)", (ROOT / path).read_text(), re.M)

    for word in filter(None, (quoted or bare).split(" or ")):
        assert any(word in name for name in names), f"{path} has no test with {word}"


def _mounted(manifests: Manifests) -> dict[str, set[str]]:
    """The Secrets of the pods, and the keys that are taken of each."""
    found: dict[str, set[str]] = {}
    for owner in [*manifests.of("Deployment"), *manifests.of("Job")]:
        spec = pod(owner)
        for variable in spec["containers"][0].get("env", []):
            reference = variable["valueFrom"]["secretKeyRef"]
            found.setdefault(reference["name"], set()).add(reference["key"])
        for volume in spec["volumes"]:
            for source in volume.get("projected", {}).get("sources", []):
                keys = {item["key"] for item in source["secret"]["items"]}
                found.setdefault(source["secret"]["name"], set()).update(keys)
    return found
