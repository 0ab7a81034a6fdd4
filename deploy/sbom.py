"""Writes what junctor's server is made of, from its lock, as a CycloneDX 1.6 document: ``make sbom``.

The same lock gives the same document: no time, no random serial number. Licenses and the graph of who needs whom are
those of the packages that are installed, as the lock does not say them; a package that is not installed has neither.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)(?:\s*;\s*([^\\]+?))?\s*\\?$")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)")


@dataclass(frozen=True)
class Pin:
    """One package of the lock."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]
    """SHA-256 of each file that may be installed."""

    @property
    def purl(self) -> str:
        """Its package URL, by which scanners know it."""
        return f"pkg:pypi/{self.name}@{self.version}"


def pins(lock: Path = LOCK) -> Iterator[Pin]:
    """Read a lock. Raises ValueError for a line that is neither a pin nor one of its hashes."""
    current: tuple[str, str, str] | None = None
    hashes: list[str] = []
    for line in lock.read_text().splitlines():
        if found := _HASH.search(line):
            hashes.append(found[1])
        elif found := _PIN.match(line):
            if current is not None:
                yield Pin(*current, tuple(hashes))
            current, hashes = (_normal(found[1]), found[2], (found[3] or "").strip()), []
        elif line.strip() and not line.lstrip().startswith("#"):
            raise ValueError(f"{lock.name}: not a pin: {line}")
    if current is not None:
        yield Pin(*current, tuple(hashes))


def document(lock: Path = LOCK) -> dict[str, Any]:
    """Return the document."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = {pin.name: pin for pin in pins(lock)}
    own = f"pkg:pypi/{project['name']}@{project['version']}"
    wanted = [*project["dependencies"], *project["optional-dependencies"]["server"]]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, own + lock.read_text())}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": own,
                "name": project["name"],
                "version": project["version"],
                "purl": own,
                "licenses": [{"license": {"id": project["license"]}}],
            }
        },
        "components": [_component(pin) for pin in locked.values()],
        "dependencies": [
            {"ref": own, "dependsOn": sorted({locked[name].purl for name in map(_name_in, wanted) if name in locked})},
            *({"ref": pin.purl, "dependsOn": _needs(pin, locked)} for pin in locked.values()),
        ],
    }


def _component(pin: Pin) -> dict[str, Any]:
    files = [{"alg": "SHA-256", "content": digest} for digest in pin.hashes]
    made: dict[str, Any] = {
        "type": "library",
        "bom-ref": pin.purl,
        "name": pin.name,
        "version": pin.version,
        "purl": pin.purl,
        "externalReferences": [
            {"type": "distribution", "url": f"https://pypi.org/project/{pin.name}/{pin.version}/", "hashes": files}
        ],
    }
    if pin.marker:
        made["properties"] = [{"name": "junctor:marker", "value": pin.marker}]
    if text := _license(pin):
        made["licenses"] = [{"license": {"name": text}}]
    return made


def _license(pin: Pin) -> str:
    installed = _installed(pin)
    if installed is None:
        return ""
    said = installed.metadata
    classified = [line.rpartition(" :: ")[2] for line in said.get_all("Classifier") or () if line.startswith("License")]
    short = (said.get("License") or "").strip()
    return said.get("License-Expression") or ", ".join(classified) or (short if "\n" not in short else "")


def _needs(pin: Pin, locked: dict[str, Pin]) -> list[str]:
    installed = _installed(pin)
    names = {_name_in(text) for text in (installed.requires or ()) if "extra ==" not in text} if installed else set()
    return sorted(locked[name].purl for name in names if name in locked)


def _installed(pin: Pin) -> metadata.Distribution | None:
    try:
        found = metadata.distribution(pin.name)
    except metadata.PackageNotFoundError:
        return None
    return found if found.version == pin.version else None


def _name_in(requirement: str) -> str:
    found = _REQUIREMENT.match(requirement)
    return _normal(found[1]) if found else ""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(document(), indent=2) + "\n")
