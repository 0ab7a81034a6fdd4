"""The kinds of documents, as a table in the order in which they are made. A further kind is one row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from junctor.fields import PROVIDER_SETTABLE, ModelFields, VirtualModelFields
from junctor.resources import kinds
from junctor.resources.kinds import Kind as Rest

Json = Mapping[str, Any]

OWNER = "junctor/owner"
"""Label that names the configuration which keeps a resource; ``--prune`` deletes what has it and is in no file."""

_DISCOVERED = "Auto-discovered model from provider "
"""How discovery describes the entities that it makes (HTTP contract, rules of discovery)."""


def _nobody(_: Json) -> bool:
    return False


def _no_references(_: Json) -> Iterator[tuple[str, str]]:
    yield from ()


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of document.

    ``fields``: what a file may say; ``kept``: fields that are left alone when the file does not name them, because
    operators or discovery write them; ``automatic`` tells an object that nobody made by hand; ``secrets`` gives field
    and name of every secret that a document needs in its workspace.
    """

    name: str
    rest: Rest[Any]
    fields: tuple[str, ...]
    kept: frozenset[str] = frozenset()
    required: tuple[str, ...] = ()
    in_workspace: bool = True
    automatic: Callable[[Json], bool] = _nobody
    secrets: Callable[[Json], Iterator[tuple[str, str]]] = _no_references

    @property
    def settable(self) -> tuple[str, ...]:
        """The fields that are compared: those of the kind and its labels."""
        return (*self.fields, "labels")


def _only(annotations: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in annotations if name not in ("resource_version", "labels"))


def _is_discovered(model: Json) -> bool:
    """Tell an entity as discovery made it: nothing in it but what discovery writes."""
    by_discovery = ("description", "api_endpoint", "backend_format", "model_providers")
    description = str(model.get("description") or "")
    others = (model.get(field) for field in (*MODEL.fields, "labels") if field not in by_discovery)
    return description.startswith(_DISCOVERED) and not any(others)


def _is_demo(provider: Json) -> bool:
    """Tell the provider that ``junctor up`` makes anew at every start, at a port of its own."""
    return provider.get("name") == "demo" and provider.get("description") == "Demo provider of junctor up"


def _provider_secrets(provider: Json) -> Iterator[tuple[str, str]]:
    if provider.get("api_key_secret_name"):
        yield "api_key_secret_name", str(provider["api_key_secret_name"])
    tls = provider.get("tls")
    if isinstance(tls, Mapping) and tls.get("client_certificate_secret_name"):
        yield "tls.client_certificate_secret_name", str(tls["client_certificate_secret_name"])


WORKSPACE = Kind("Workspace", kinds.WORKSPACES, ("description",), in_workspace=False)
SECRET = Kind("Secret", kinds.SECRETS, ("description",))
PROVIDER = Kind(
    "Provider",
    kinds.PROVIDERS,
    _only({"host_url": str, **dict.fromkeys(PROVIDER_SETTABLE)}),
    kept=frozenset({"admin_state"}),
    required=("host_url",),
    automatic=_is_demo,
    secrets=_provider_secrets,
)
MODEL = Kind(
    "Model",
    kinds.MODELS,
    _only(ModelFields.__annotations__),
    kept=frozenset({"description", "api_endpoint", "backend_format", "model_providers"}),
    automatic=_is_discovered,
)
VIRTUAL_MODEL = Kind(
    "VirtualModel",
    kinds.VIRTUAL_MODELS,
    _only(VirtualModelFields.__annotations__),
    automatic=lambda virtual: bool(virtual.get("autoprovisioned")),
)

KINDS = (WORKSPACE, SECRET, PROVIDER, MODEL, VIRTUAL_MODEL)
"""In the order of making; deleting goes the other way."""
BY_NAME = {kind.name: kind for kind in KINDS}
