"""Who calls a gRPC method and whether they may: one concern before the request is decoded, one judge after.

Another process of junctor acts for itself, or for the caller whose signed assertion it brings. Anybody else shows a
credential. From then on ``current_call().principal`` is a :class:`~services.access.identity.Caller`, and what is in
workspaces where it has no role does not exist for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import Any

from junctor.channel import CALLER_KEY
from junctor.errors import JunctorError, PermissionDenied, ResourceNotFound, ResourceRef, Unauthenticated
from services.access.assertions import from_text
from services.access.audit import AuditReporter, Refusal
from services.access.authenticator import Authenticator
from services.access.credentials import required
from services.access.identity import SERVICE, Caller, Kind
from services.access.policy import POLICY, Rule, Where, workspace_of
from services.access.roles import NEEDED, Permission
from services.access.standing import Renew, while_allowed
from services.runtime.auth import PeerRule, Secret, is_peer
from services.runtime.interceptors import CallInfo, Context, Rpc, current_call

_NOT_SEEN = "NOT_SEEN"
"""What the record says of a call that was told that a workspace does not exist."""


class Guard:
    """The concern and the judge of one server, which is made before what they decide by: see :meth:`decide_by`."""

    def __init__(self, token: Secret | None, peers: PeerRule) -> None:
        self._token = token
        self._peers = peers
        self._authenticator: Authenticator
        self._reporter: AuditReporter

    def decide_by(self, authenticator: Authenticator, reporter: AuditReporter) -> None:
        """Say what proves credentials and where refusals are told: once, before the server serves."""
        self._authenticator = authenticator
        self._reporter = reporter

    @asynccontextmanager
    async def concern(self, context: Context, rpc: Rpc) -> AsyncIterator[None]:
        """Find out who calls. Raises Unauthenticated, PermissionDenied, NotReady."""
        rule = POLICY.get(rpc.path)
        info = current_call()
        if info is None or (rule is not None and rule.where is Where.NOWHERE):
            yield
            return
        try:
            if rule is None:
                raise PermissionDenied(f"No rule allows {rpc.path}")
            info.principal, renew = caller, _ = await self._caller(context)
            info.workspaces = caller.workspaces
            _check_reach(rule, caller)
            async with _standing(rpc, rule, info, renew):
                yield
        except (Unauthenticated, PermissionDenied) as error:
            self._tell(info, rpc, error)
            raise

    def judge(self, rpc: Rpc, message: Any) -> None:
        """Refuse what the caller's role is too low for. Raises PermissionDenied, ResourceNotFound."""
        rule, info = POLICY.get(rpc.path), current_call()
        judged = rule is not None and rule.where is Where.WORKSPACE and not isinstance(message, bytes)
        if not judged or rule is None or info is None or not isinstance(info.principal, Caller):
            return  # bytes are relayed to the process that has the service, with who calls
        caller = info.principal
        info.workspace = workspace = workspace_of(rule, message)
        if not workspace:
            _narrow(info, caller, rule)
        elif not caller.role_in(workspace):
            self._reporter.refused(
                Refusal(caller.principal, rpc.path, _NOT_SEEN, workspace), request_id=info.request_id
            )
            if rule.hides:
                ref = ResourceRef("workspace", workspace)
                raise ResourceNotFound(f"Workspace '{workspace}' not found", resource=ref)
        else:
            require(caller, rule.permission, workspace)
            _check_references(rule, caller, message, workspace)

    async def _caller(self, context: Context) -> tuple[Caller, Renew]:
        """Return who calls, and how to ask that again later."""
        metadata = context.invocation_metadata() or ()
        if is_peer(context, self._token, self._peers):
            said = [value for key, value in metadata if key == CALLER_KEY]
            caller = await self._authenticator.asserted(from_text(said[-1])) if said else SERVICE
            return caller, partial(self._authenticator.caller_of, caller.identity)
        fields = [(key.encode(), _bytes(value)) for key, value in metadata]
        credential = required(fields)
        return await self._authenticator.prove(credential), partial(self._authenticator.prove, credential)

    def _tell(self, info: CallInfo, rpc: Rpc, error: JunctorError) -> None:
        principal = info.principal.principal if isinstance(info.principal, Caller) else ""
        named = error.resource is not None and error.resource.kind == "workspace"
        workspace = error.resource.name if named and error.resource is not None else info.workspace
        self._reporter.refused(Refusal(principal, rpc.path, error.reason, workspace), request_id=info.request_id)


def require(caller: Caller, permission: Permission, workspace: str) -> None:
    """Raise PermissionDenied unless the caller, who has a role in the workspace, may do this there."""
    if caller.may(permission, workspace):
        return
    needed = NEEDED[permission]
    low = caller.role_in(workspace) < needed
    what = f"the role {needed.label} in workspace '{workspace}'" if low else f"the scope '{permission.value}'"
    raise PermissionDenied(f"This needs {what}", resource=ResourceRef("workspace", workspace))


def _standing(rpc: Rpc, rule: Rule, info: CallInfo, renew: Renew) -> AbstractAsyncContextManager[None]:
    """Let a stream that nobody ends go on only while its caller may have it. Answers of providers run to their end."""
    lasting = rpc.endless or rpc.name == "InvokeMany"
    outsider = isinstance(info.principal, Caller) and info.principal.identity.kind is not Kind.SERVICE
    return while_allowed(info, renew, partial(_judge_again, rule)) if lasting and outsider else nullcontext()


def _judge_again(rule: Rule, info: CallInfo, caller: Caller) -> None:
    info.workspaces = caller.workspaces
    _check_reach(rule, caller)
    if rule.where is not Where.WORKSPACE:
        return
    if info.workspace:
        require(caller, rule.permission, info.workspace)
    else:
        _narrow(info, caller, rule)


def _check_reach(rule: Rule, caller: Caller) -> None:
    """Judge what needs no request: platform rights, and the scopes of a token."""
    left = caller.identity.permissions
    if rule.where is Where.PLATFORM and not caller.may(Permission.PLATFORM, ""):
        raise PermissionDenied(f"This needs the role {NEEDED[Permission.PLATFORM].label}")
    if rule.where is Where.ANYWHERE and left is not None and rule.permission not in left:
        raise PermissionDenied(f"This needs the scope '{rule.permission.value}'")


def _narrow(info: CallInfo, caller: Caller, rule: Rule) -> None:
    """What is asked of all workspaces is asked of those where the caller may ask it."""
    if caller.everywhere:
        require(caller, rule.permission, "")
        return
    info.workspaces = frozenset(name for name in caller.roles if caller.may(rule.permission, name))
    if not info.workspaces and rule.permission is not Permission.READ:
        raise PermissionDenied(f"This needs the role {NEEDED[rule.permission].label} in some workspace")


def _check_references(rule: Rule, caller: Caller, message: Any, workspace: str) -> None:
    for field, named in rule.references(message) if rule.references is not None else ():
        first, slash, second = named.partition("/")
        other, name = (first, second) if slash else (workspace, named)
        ref = ResourceRef("workspace", workspace)
        if other != workspace and not caller.may(rule.carried, other):
            raise PermissionDenied(f"{field} is in workspace '{other}', which you may not use", resource=ref)
        if named and caller.models and (field.endswith(".provider") or not caller.takes_model(other, name)):
            raise PermissionDenied(f"This key is for certain models, and {field} leads to another", resource=ref)


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "replace")
