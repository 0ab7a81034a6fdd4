"""One row for every RPC: the permission that it needs, and where. REST is no other door: the edge calls these RPCs.

What lies in a workspace where the caller has no role is not there for them: the stores say so in the words they have
for what does not exist, so this table only refuses roles that are too low. A test holds it against every descriptor;
an RPC without a row is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from junctor import names
from services.access.roles import Permission


class Where(Enum):
    """What a permission has to be had in."""

    NOWHERE = "nowhere"
    """Anybody may, without a credential."""
    ANYWHERE = "anywhere"
    """Any caller who is authenticated; what they get to see, the service chooses by their roles."""
    WORKSPACE = "workspace"
    """The workspace that the request names."""
    PLATFORM = "platform"
    """Everywhere at once."""
    INSIDE = "inside"
    """Processes of junctor only."""


Names = Callable[[Any], str]
References = Callable[[Any], Iterable[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A row. ``workspace`` takes it out of the request; empty and ``-`` mean: all that the caller sees."""

    where: Where
    permission: Permission = Permission.READ
    workspace: Names | None = None
    references: References | None = None
    """``(field, name)`` of resources that the request leans on: the caller must be able to call them, or a role in one
    workspace would be a way into another, and a key for certain models one to all of them."""
    carried: Permission = Permission.INFER
    """What the caller needs where those lie."""
    hides: bool = False
    """The guard itself answers for a workspace where the caller has no role; else the service's store does."""


def _field(path: str) -> Names:
    steps = path.split(".")

    def read(message: Any) -> str:
        for step in steps:
            message = getattr(message, step)
        return str(message)

    return read


def _in(permission: Permission, path: str = "workspace", **more: Any) -> Rule:
    return Rule(Where.WORKSPACE, permission, _field(path), **more)


def _virtual_model_references(message: Any) -> Iterable[tuple[str, str]]:
    routing = message.virtual_model.routing
    yield "default_model_entity", message.virtual_model.default_model_entity
    for index, target in enumerate(routing.targets):
        yield f"routing.targets[{index}].model", target.model
        yield f"routing.targets[{index}].upstream.provider", target.upstream.provider
    for index, fallback in enumerate(routing.fallbacks):
        yield f"routing.fallbacks[{index}]", fallback


def _served_references(message: Any) -> Iterable[tuple[str, str]]:
    for index, served in enumerate(message.served_models.values):
        yield f"served_models[{index}].model_entity_id", served.model_entity_id


READ, INFER, WRITE, MANAGE = Permission.READ, Permission.INFER, Permission.WRITE, Permission.MANAGE
ANYONE = Rule(Where.NOWHERE)
AUTHENTICATED = Rule(Where.ANYWHERE)
SEEN = Rule(Where.WORKSPACE, READ, _field("workspace"))
WATCHED = Rule(Where.ANYWHERE, READ)
"""The events of workspaces that the caller sees."""
CALLS = Rule(Where.ANYWHERE, INFER)
"""The router decides, when it knows which model is meant."""
PLATFORM = Rule(Where.PLATFORM, Permission.PLATFORM)
INSIDE = Rule(Where.INSIDE)


def _resource(service: str, kind: str, field: str, **references: Any) -> dict[str, Rule]:
    """Return the rows that every kind of resource has."""
    return {
        f"{service}/Get{kind}": SEEN,
        f"{service}/List{kind}s": SEEN,
        f"{service}/Create{kind}": _in(WRITE, f"{field}.workspace", **references),
        f"{service}/Update{kind}": _in(WRITE, f"{field}.workspace", **references),
        f"{service}/Delete{kind}": _in(WRITE),
        f"{service}/Watch{kind}s": WATCHED,
    }


_ROWS: dict[str, Rule] = {
    "Workspaces/GetWorkspace": _in(READ, "name"),
    "Workspaces/ListWorkspaces": AUTHENTICATED,
    "Workspaces/CreateWorkspace": PLATFORM,
    "Workspaces/UpdateWorkspace": _in(MANAGE, "workspace.name"),
    "Workspaces/DeleteWorkspace": _in(MANAGE, "name"),
    "Workspaces/WatchWorkspaces": WATCHED,
    **_resource("ModelRegistry", "Model", "model"),
    **_resource("VirtualModels", "VirtualModel", "virtual_model", references=_virtual_model_references),
    **_resource("ProviderRegistry", "Provider", "provider"),
    "ProviderRegistry/UpdateProviderStatus": _in(MANAGE, references=_served_references, carried=WRITE),
    "ProviderRegistry/ResetProviderHealth": _in(MANAGE),
    **_resource("SecretStore", "Secret", "secret"),
    "SecretStore/UpdateSecret": _in(WRITE),
    "Keys/CreateKey": _in(MANAGE, "key.workspace", hides=True),
    "Keys/GetKey": AUTHENTICATED,  # the service looks where the key belongs
    "Keys/ListKeys": _in(MANAGE, hides=True),
    "Keys/RevokeKey": AUTHENTICATED,
    "Members/GetMember": _in(MANAGE, hides=True),
    "Members/ListMembers": _in(MANAGE, hides=True),
    "Members/CreateMember": _in(MANAGE, "member.workspace", hides=True),
    "Members/UpdateMember": _in(MANAGE, "member.workspace", hides=True),
    "Members/DeleteMember": _in(MANAGE, hides=True),
    "Audit/ListAuditEvents": _in(MANAGE, hides=True),
    "Audit/WatchAuditEvents": _in(MANAGE, hides=True),
    "Inference/CreateChatCompletion": CALLS,
    "Inference/StreamChatCompletion": CALLS,
    "Inference/CreateCompletion": CALLS,
    "Inference/StreamCompletion": CALLS,
    "Inference/CreateEmbeddings": CALLS,
    "Inference/StreamEmbeddings": CALLS,
    "InferenceRouter/Invoke": CALLS,
    "InferenceRouter/InvokeMany": CALLS,
    "InferenceRouter/ListServedModels": CALLS,
    "InferenceRouter/ProviderReady": SEEN,
    "InferenceRouter/ExplainRoute": CALLS,
    "InferenceRouter/GetActivity": AUTHENTICATED,  # the router shows what the caller may see
    "Usage/ListUsage": _in(MANAGE, hides=True),
    "Usage/SummarizeUsage": _in(MANAGE, hides=True),
    "Usage/WatchUsage": _in(MANAGE, hides=True),
    "Prices/SetPrice": PLATFORM,
    "Prices/ListPrices": AUTHENTICATED,
    "UsageSink/RecordUsage": INSIDE,
    "Quota/Lease": INSIDE,
    "AccessSync/WatchKeyRecords": INSIDE,
    "AccessSync/WatchMembers": INSIDE,
    "AccessSync/GetAccessRevision": INSIDE,
    "AccessSync/RecordAuditEvents": INSIDE,
    "ProviderSync/SyncProvider": INSIDE,
    "SecretAccess/AccessSecret": INSIDE,
    "RouterPeers/CopyState": INSIDE,
}

POLICY: Mapping[str, Rule] = {
    **{f"/junctor.v1.{path}": rule for path, rule in _ROWS.items()},
    "/grpc.health.v1.Health/Check": ANYONE,
    "/grpc.health.v1.Health/Watch": ANYONE,
    "/grpc.health.v1.Health/List": ANYONE,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": AUTHENTICATED,
}
"""By the method's path."""


def workspace_of(rule: Rule, message: Any) -> str:
    """Return the one workspace that a request is about; empty if it is about none or all that its caller sees."""
    named = rule.workspace(message) if rule.workspace is not None else ""
    return "" if named == names.ALL_WORKSPACES else named


def matrix() -> str:
    """Write the table as Markdown: for each RPC the smallest role and the scope that it takes."""
    from services.access.roles import NEEDED

    lines = ["| RPC | where | role | scope |", "|---|---|---|---|"]
    for path, rule in POLICY.items():
        named = path.removeprefix("/junctor.v1.").removeprefix("/")
        if rule.where in (Where.NOWHERE, Where.INSIDE):
            told = ("–", "–") if rule.where is Where.NOWHERE else ("service token or certificate", "–")
        elif rule.where is Where.ANYWHERE and rule.permission is READ:
            told = ("any, sees its own workspaces", "read")
        else:
            told = (NEEDED[rule.permission].label, rule.permission.value)
        lines.append(f"| `{named}` | {rule.where.value} | {told[0]} | {told[1]} |")
    return "\n".join(lines) + "\n"
