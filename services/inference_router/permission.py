"""Which models and providers are there for a caller, and whether it may call them: by its roles and its key.

What lies in a workspace without a role is resolved as if the catalog did not have it, so an answer about it is the
very answer about a name that does not exist.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from junctor import names
from junctor.errors import JunctorError, LimitExceeded, PermissionDenied, ResourceRef, Unauthenticated
from services.access.audit import AuditReporter, Refusal
from services.access.authenticator import Authenticator
from services.access.guard import require
from services.access.identity import NOBODY, Caller, Kind
from services.access.roles import Permission
from services.inference_router import resolution
from services.inference_router.catalog import CatalogKeeper
from services.inference_router.resolution import Resolution
from services.inference_router.snapshot import Catalog, Provider
from services.runtime.exchange import Call, Route

_ALLOWED = 10_000
"""Decisions that are kept."""
_VIEWS = 64
"""Catalogs as sets of workspaces see them that are kept: most callers see the same few."""


class Permissions:
    """Decides for one router. ``authenticator`` None: auth is off, everybody may everything."""

    def __init__(
        self, keeper: CatalogKeeper, authenticator: Authenticator | None = None, reporter: AuditReporter | None = None
    ) -> None:
        self._keeper = keeper
        self._authenticator = authenticator
        self._reporter = reporter
        self._views: dict[frozenset[str], Catalog] = {}
        self._viewed_at = -1
        self._allowed: dict[tuple[Caller, Route, str, str, str | None], Resolution] = {}
        """What a caller asked for and may have, since the catalog last changed; a caller of other rights is another."""
        self._allowed_at = -1
        self._running: Counter[str] = Counter()

    @property
    def enforced(self) -> bool:
        """Tell whether callers are told apart."""
        return self._authenticator is not None

    def known(self, call: Call) -> Caller | None:
        """Return who calls if that takes no waiting, and write it into the call; else :meth:`admit` tells."""
        if self._authenticator is None:
            return NOBODY
        caller = call.principal
        if type(caller) is not Caller:
            return None
        if not call.assertion or caller.identity.kind is not Kind.SERVICE:
            return caller
        if (asserted := self._authenticator.asserted_known(call.assertion)) is not None:
            call.principal = asserted
        return asserted

    async def admit(self, call: Call) -> Caller:
        """Find out who calls, and write it into the call. Raises Unauthenticated, NotReady."""
        if self._authenticator is None or type(call.principal) is not Caller:
            raise Unauthenticated("Unauthorized")
        call.principal = caller = await self._authenticator.asserted(call.assertion)
        return caller

    @contextmanager
    def slot(self, caller: Caller) -> Iterator[None]:
        """Count a request against the concurrency limit of its key. Raises LimitExceeded."""
        limit, key = caller.limits.concurrency, caller.identity.name
        if limit is None:
            yield
            return
        if self._running[key] >= limit:
            raise LimitExceeded(
                f"This key may have {limit} requests at the same time",
                metadata={"limit": "concurrency", "allowed": str(limit), "used": str(self._running[key])},
                retry_after=1.0,
            )
        self._running[key] += 1
        try:
            yield
        finally:
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]

    def resolve(self, caller: Caller, call: Call, model: str | None, usual: Callable[[], Resolution]) -> Resolution:
        """Resolve a call by model as the caller sees the catalog; ``usual`` resolves it for those who see everything.

        Raises what resolution does, and PermissionDenied.
        """
        if self._allowed_at != self._keeper.changes or len(self._allowed) > _ALLOWED:
            self._allowed_at = self._keeper.changes
            self._allowed.clear()
        asked = (caller, call.route, call.workspace, call.name, model)
        allowed = self._allowed.get(asked)
        if allowed is None:
            allowed = usual() if caller.everywhere else self._seen(caller, call, model, usual)
            virtual_model = allowed.virtual_model
            self.check_model(caller, virtual_model.workspace, virtual_model.name, call)
            self._allowed[asked] = allowed
        return allowed

    def provider(self, caller: Caller, call: Call) -> Provider:
        """Find the provider of a provider route as the caller sees the catalog. Raises as resolution does, and
        PermissionDenied."""
        provider = resolution.provider_of(self.catalog(caller), call.workspace, call.name)
        self._check(caller, call, provider.workspace)
        if caller.models:
            self._refuse(caller, call, provider.workspace, "a provider's own route takes any model")
        return provider

    def check_model(self, caller: Caller, workspace: str, name: str, call: Call | None = None) -> None:
        """Raise PermissionDenied unless the caller, who sees the workspace, may call the model."""
        self._check(caller, call, workspace)
        if not caller.takes_model(workspace, name):
            self._refuse(caller, call, workspace, f"'{names.join(workspace, name)}' is not among them")

    def catalog(self, caller: Caller) -> Catalog:
        """Return the catalog with the workspaces alone in which the caller has a role."""
        workspaces = caller.workspaces
        if workspaces is None:
            return self._keeper.catalog
        if self._viewed_at != self._keeper.changes or len(self._views) > _VIEWS:
            self._viewed_at = self._keeper.changes
            self._views.clear()
        view = self._views.get(workspaces)
        if view is None:
            view = self._views[workspaces] = _view(self._keeper.catalog, workspaces)
        return view

    def _seen(self, caller: Caller, call: Call, model: str | None, usual: Callable[[], Resolution]) -> Resolution:
        try:
            found = usual()
            if caller.role_in(found.virtual_model.workspace):
                return found
        except JunctorError:
            pass  # what went wrong may be nothing of this caller's business
        try:
            return resolution.resolve(self.catalog(caller), call.route, call.workspace, name=call.name, model=model)
        except JunctorError:
            if call.route is not Route.PLAIN and not caller.role_in(call.workspace):
                self._tell(caller, call, call.workspace, "NOT_SEEN")
            raise

    def _check(self, caller: Caller, call: Call | None, workspace: str) -> None:
        try:
            require(caller, Permission.INFER, workspace)
        except PermissionDenied as error:
            self._tell(caller, call, workspace, error.reason)
            raise

    def _refuse(self, caller: Caller, call: Call | None, workspace: str, why: str) -> None:
        self._tell(caller, call, workspace, PermissionDenied.reason)
        ref = ResourceRef("workspace", workspace)
        raise PermissionDenied(f"This key is for certain models, and {why}", resource=ref)

    def _tell(self, caller: Caller, call: Call | None, workspace: str, reason: str) -> None:
        if self._reporter is not None and call is not None:
            method = f"{call.method} {call.route.value} {call.path.decode('ascii', 'replace')}"
            refusal = Refusal(caller.principal, method, reason, workspace, name=call.name)
            self._reporter.refused(refusal, request_id=call.request_id)


def _view(catalog: Catalog, workspaces: frozenset[str]) -> Catalog:
    def seen(mapping: Any, where: Callable[[Any], str]) -> dict[Any, Any]:
        return {key: value for key, value in mapping.items() if where(key) in workspaces}

    return Catalog(
        providers=seen(catalog.providers, lambda key: key[0]),
        virtual_models=seen(catalog.virtual_models, lambda key: key[0]),
        by_entity=seen(catalog.by_entity, lambda entity: names.split(entity)[0]),
        vendor_ids=seen(catalog.vendor_ids, lambda workspace: workspace),
    )
