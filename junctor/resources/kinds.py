"""Every kind of resource as requests: where it is, how its JSON is read, what its calls are. Pure.

The twins of :mod:`junctor.resources.blocking` and :mod:`junctor.resources.awaited` only send what is built here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar

from junctor import records, urls
from junctor.errors import InternalError
from junctor.fields import PROVIDER_SETTABLE
from junctor.paging import Page
from junctor.records import Model, Provider, Secret, ServedModel, VirtualModel, Workspace
from junctor.request import Answer, Filter, Request, content, filter_text, nothing, segment

T = TypeVar("T")
MODIFY_ATTEMPTS: Final = 5
"""Tries of a change that somebody else's keeps overtaking."""


@dataclass(frozen=True, slots=True)
class Query:
    """What a list is asked for; None leaves it to the server. ``sort``: a field, ``-`` before it for descending."""

    filter: Filter | None = None
    sort: str | None = None
    page_size: int | None = None


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """One kind. ``path`` has ``{workspace}`` unless the kind lives outside of workspaces."""

    path: str
    read: Callable[[Any], T]
    update: Literal["PATCH", "PUT"] = "PATCH"

    def get_one(self, workspace: str, name: str) -> Request[T]:
        """Read one."""
        return Request("GET", self._one(workspace, name), self._item)

    def get_page(self, workspace: str, query: Query, number: int) -> Request[Page[T]]:
        """Read one page."""
        parameters = {
            "page": number,
            "page_size": query.page_size,
            "sort": query.sort,
            "filter": filter_text(query.filter),
        }
        return Request("GET", self._all(workspace), lambda got: Page.read(decoded(got), self.read), parameters)

    def create(self, workspace: str, name: str, fields: Mapping[str, Any]) -> Request[T]:
        """Create one."""
        body = content({"name": name, **fields})
        return Request("POST", self._all(workspace), self._item, body=body)

    def change(self, workspace: str, name: str, fields: Mapping[str, Any]) -> Request[T]:
        """Update one, in the way of its kind: in part (PATCH) or as a whole (PUT)."""
        return Request(self.update, self._one(workspace, name), self._item, body=content(dict(fields)))

    def delete(self, workspace: str, name: str, resource_version: str | None) -> Request[None]:
        """Delete one; with a ``resource_version`` only if nobody has changed it since."""
        return Request("DELETE", self._one(workspace, name), nothing, {"resource_version": resource_version})

    def _all(self, workspace: str) -> str:
        return self.path.format(workspace=segment(workspace, "workspace"))

    def _one(self, workspace: str, name: str) -> str:
        return f"{self._all(workspace)}/{segment(name)}"

    def _item(self, answer: Answer) -> T:
        return self.read(decoded(answer))


WORKSPACES: Final = Kind("apis/entities/v2/workspaces", Workspace.read, "PUT")
SECRETS: Final = Kind("apis/secrets/v2/workspaces/{workspace}/secrets", Secret.read)
MODELS: Final = Kind("apis/models/v2/workspaces/{workspace}/models", Model.read)
PROVIDERS: Final = Kind("apis/models/v2/workspaces/{workspace}/providers", Provider.read, "PUT")
VIRTUAL_MODELS: Final = Kind(f"{urls.GATEWAY}/{{workspace}}/virtual-models", VirtualModel.read)


def provider_status(workspace: str, name: str, fields: Mapping[str, Any]) -> Request[Provider]:
    """Set a provider's status by hand."""
    path = f"{PROVIDERS.path.format(workspace=segment(workspace, 'workspace'))}/{segment(name)}/status"
    return Request("PUT", path, lambda got: Provider.read(decoded(got)), body=content(dict(fields)))


def provider_reset(workspace: str, name: str) -> Request[Provider]:
    """Have routers forget a provider's health."""
    path = f"{PROVIDERS.path.format(workspace=segment(workspace, 'workspace'))}/{segment(name)}/reset"
    return Request("POST", path, lambda got: Provider.read(decoded(got)))


def changed_provider(provider: Provider, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the full replace that changes a provider in ``changes`` alone.

    Its ``resource_version`` is among what is repeated, so it is refused if the provider is not as given any more.
    """
    kept = {key: provider.raw[key] for key in PROVIDER_SETTABLE if provider.raw.get(key) is not None}
    return {**kept, **changes}


def provider_ready(workspace: str, name: str) -> Request[None]:
    """Ask the gateway whether a provider's models route."""
    path = f"{urls.GATEWAY}/{segment(workspace, 'workspace')}/provider/{segment(name)}/ready"
    return Request("GET", path, nothing)


def served_models(workspace: str) -> Request[tuple[ServedModel, ...]]:
    """List what can be called now in a workspace."""
    path = f"{urls.GATEWAY}/{segment(workspace, 'workspace')}/openai/-/v1/models"
    return Request("GET", path, _served)


def served_model(workspace: str, name: str) -> Request[ServedModel]:
    """Read one name that can be called."""
    path = f"{urls.GATEWAY}/{segment(workspace, 'workspace')}/openai/-/v1/models/{segment(name)}"
    return Request("GET", path, lambda got: ServedModel.read(decoded(got)))


def health() -> Request[None]:
    """Ask whether requests would be served."""
    return Request("GET", "health/ready", nothing)


def status() -> Request[records.Json]:
    """Ask for the state of every service."""
    return Request("GET", "status", _object)


def decoded(answer: Answer) -> Any:
    """Decode an answer. Raises InternalError when it is no JSON: then it is not junctor that answered."""
    try:
        return answer.json()
    except (ValueError, RecursionError):
        raise InternalError("the server's answer is no JSON; is the base URL junctor's?") from None


def _object(answer: Answer) -> records.Json:
    found = decoded(answer)
    if not isinstance(found, dict):
        raise InternalError("the server's answer is no JSON object; is the base URL junctor's?")
    return found


def _served(answer: Answer) -> tuple[ServedModel, ...]:
    return tuple(ServedModel.read(entry) for entry in _object(answer).get("data") or ())
