"""Manifests as objects, and what tests ask of them again and again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from services.settings_table import GATEWAY, PORTS
from tests.deploy.image import DEPLOY, image

KUBERNETES = DEPLOY / "kubernetes"
CHART = DEPLOY / "helm" / "junctor"
EVERY = (*PORTS, GATEWAY)
STORES = tuple(name for name in PORTS if name != "inference-router")
KINDS = (
    "ConfigMap",
    "Deployment",
    "HorizontalPodAutoscaler",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "Service",
    "ServiceAccount",
)
"""What every service has."""
Object = dict[str, Any]

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_HASH = re.compile(r"^(junctor-[a-z-]+)-[0-9a-z]{10}$")


@dataclass(frozen=True)
class Manifests:
    """Rendered objects by kind and name; a ConfigMap has the name without its content's hash."""

    objects: Mapping[tuple[str, str], Object]

    @classmethod
    def parse(cls, text: str) -> Manifests:
        found = [one for one in yaml.load_all(text, Loader=_LOADER) if one]
        return cls({(one["kind"], _plain(one["metadata"]["name"])): one for one in found})

    def of(self, kind: str) -> list[Object]:
        return [one for (found, _), one in self.objects.items() if found == kind]

    def get(self, kind: str, service: str) -> Object:
        return self.objects[kind, f"junctor-{service}"]

    def services(self) -> list[str]:
        """The services of junctor that are deployed."""
        return [name.removeprefix("junctor-") for kind, name in self.objects if kind == "Deployment"]

    def container(self, service: str) -> Object:
        (container,) = pod(self.get("Deployment", service))["containers"]
        return dict(container)

    def settings(self, service: str) -> dict[str, str]:
        """The variables of the container but for those from a Secret: the image's, then the ConfigMap's."""
        return {**image().env, **self.get("ConfigMap", service)["data"]}


def pod(owner: Object) -> Object:
    """The specification of the pods of a Deployment or a Job."""
    return dict(owner["spec"]["template"]["spec"])


def pods(manifests: Manifests) -> list[Object]:
    """Those of every Deployment and Job."""
    return [pod(one) for one in [*manifests.of("Deployment"), *manifests.of("Job")]]


def plain(manifests: Manifests) -> dict[str, Object]:
    """The objects by kind and name without what says who rendered them: hashes, namespaces, Helm's labels and hooks."""
    return {f"{kind}/{name}": _stripped(one) for (kind, name), one in manifests.objects.items()}


def target(text: str) -> tuple[str, int]:
    """Host and port of a gRPC target ``dns:///host:port``."""
    found = re.fullmatch(r"dns:///([a-z0-9.-]+):(\d+)", text)
    assert found, f"{text} names no host whose every address is looked up"
    return found[1], int(found[2])


def documents(folder: Path) -> Iterable[Object]:
    """Every object of the files of a folder, as written."""
    for path in sorted(folder.glob("*.yaml")):
        if path.name != "kustomization.yaml":
            yield from (one for one in yaml.safe_load_all(path.read_text()) if one)


def _plain(name: str) -> str:
    found = _HASH.match(name)
    return found[1] if found else name


def _stripped(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _stripped(inner) for key, inner in value.items() if not _says_who(key)}
        return {key: inner for key, inner in kept.items() if inner != {} or value[key] == {}}
    if isinstance(value, list):
        return [_stripped(inner) for inner in value]
    return _plain(value) if isinstance(value, str) else value


def _says_who(key: str) -> bool:
    return key in {"namespace", "app.kubernetes.io/managed-by", "checksum/settings"} or key.startswith("helm.sh/")
