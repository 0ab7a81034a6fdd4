"""The gRPC service ``InferenceRouter``: Invoke, and what the router would do."""

from __future__ import annotations

from typing import Any

from junctor import names
from junctor.errors import CredentialUnavailable, InvalidField, NoRoute, NotSupported, ResourceNotFound, ResourceRef
from junctor.v1 import inference_router_pb2 as pb
from junctor.v1.inference_router_pb2_grpc import InferenceRouterServicer
from services.access.identity import NOBODY, Caller
from services.inference_router import resolution
from services.inference_router.activity import Activity
from services.inference_router.catalog import CatalogKeeper
from services.inference_router.explaining import explain
from services.inference_router.many_servicer import ManyServicer
from services.inference_router.router import Router
from services.inference_router.snapshot import AdminState, Catalog, Provider, VirtualModel
from services.runtime.exchange import Route
from services.runtime.interceptors import current_call


class RouterServicer(ManyServicer, InferenceRouterServicer):
    """Answers from the catalog in memory."""

    def __init__(self, router: Router, keeper: CatalogKeeper, *, default_workspace: str) -> None:
        super().__init__(router)
        self._router = router
        self._keeper = keeper
        self._default_workspace = default_workspace
        self.activity: Activity | None = None
        """What the router does; None: it does not tell."""

    async def ListServedModels(self, request: pb.ListServedModelsRequest, context: Any) -> pb.ListServedModelsResponse:
        everywhere = request.all_workspaces or request.plain
        caller = _caller()
        catalog = self._router.permissions.catalog(caller)
        found = resolution.served_models(catalog, None if everywhere else request.workspace)
        models = [_served(catalog, each) for each in found if caller.may_call(each.workspace, each.name)]
        if request.plain:
            models += self._vendor_names(catalog, caller)
        return pb.ListServedModelsResponse(models=models)

    async def ProviderReady(self, request: pb.ProviderReadyRequest, context: Any) -> pb.ProviderReadyResponse:
        catalog = self._router.permissions.catalog(_caller())
        provider = catalog.providers.get((request.workspace, request.name))
        if provider is None:
            ref = names.join(request.workspace, request.name)
            raise ResourceNotFound(f"Model provider not found for {ref}", resource=ResourceRef("provider", ref))
        reason = not_ready(catalog, provider)
        return pb.ProviderReadyResponse(ready=not reason, host_url=self._keeper.host_url(provider), reason=reason)

    async def ExplainRoute(self, request: pb.ExplainRouteRequest, context: Any) -> pb.ExplainRouteResponse:
        return await explain(self._router, self._keeper, request, _caller())

    async def GetActivity(self, request: pb.GetActivityRequest, context: Any) -> pb.GetActivityResponse:
        if self.activity is None:
            raise NotSupported("This router does not tell what it does")
        answer = self.activity.told(_caller(), request.workspace)
        answer.instance, answer.processes = self._instance, self.processes
        return answer

    def _vendor_names(self, catalog: Catalog, caller: Caller) -> list[pb.ServedModel]:
        """List the upstream ids that plain ``/v1`` resolves: those of one entity of the default workspace."""
        workspace = self._default_workspace
        listed = []
        for upstream_id in sorted(catalog.vendor_ids.get(workspace, {})):
            try:
                found = resolution.resolve(catalog, Route.PLAIN, workspace, model=upstream_id)
            except (InvalidField, NoRoute, CredentialUnavailable):
                continue
            virtual_model = found.virtual_model
            if not caller.may_call(virtual_model.workspace, virtual_model.name):
                continue
            if upstream_id not in (virtual_model.name, names.join(virtual_model.workspace, virtual_model.name)):
                listed.append(
                    pb.ServedModel(
                        id=upstream_id,
                        workspace=virtual_model.workspace,
                        name=virtual_model.name,
                        entity=virtual_model.default_entity,
                        owned_by=virtual_model.workspace,
                    )
                )
        return listed


def _caller() -> Caller:
    info = current_call()
    return info.principal if info is not None and isinstance(info.principal, Caller) else NOBODY


def not_ready(catalog: Catalog, provider: Provider) -> str:
    """Say why requests for a provider's models would not route; empty if they would."""
    if not provider.ready:
        return "discovery has not made it READY"
    if provider.lacks_key:
        return f"its secret {provider.missing_secret} is not at hand"
    if provider.admin_state is not AdminState.ACTIVE:
        return f"it is {provider.admin_state.value}"
    for served in provider.served:
        if names.split(served.entity) not in catalog.virtual_models:
            return f"{served.entity} has no virtual model yet"
    return ""


def _served(catalog: Catalog, virtual_model: VirtualModel) -> pb.ServedModel:
    entity = virtual_model.default_entity
    return pb.ServedModel(
        id=names.join(virtual_model.workspace, virtual_model.name),
        workspace=virtual_model.workspace,
        name=virtual_model.name,
        entity=entity,
        owned_by=virtual_model.workspace,
        vendor_ids=dict.fromkeys(upstream_id for _, upstream_id in catalog.by_entity.get(entity, ())),
    )
