"""``GET /apis/auth/v2/audit`` over the service ``Audit``: the record, newest first. Nothing writes to it here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from gateway_http.collection import Collection, Rpc
from gateway_http.endpoint import Answer, Call, route
from gateway_http.queries import Listing
from gateway_http.resources import AUDIT_EVENT
from gateway_http.stubs import Service
from gateway_http.translate import BadBody
from junctor.v1 import access_pb2 as pb

if TYPE_CHECKING:
    from junctor.v1.access_pb2_grpc import AuditAsyncStub

PATH = "/apis/auth/v2/audit"


def routes(service: Service[AuditAsyncStub]) -> list[Route]:
    """Return the route of the record."""

    async def list_(call: Call) -> Answer:
        def request(listing: Listing) -> pb.ListAuditEventsRequest:
            if listing.sort != AUDIT_EVENT.default_sort:
                raise BadBody([("query.sort", "enum", "Input should be '-time': the newest come first")])
            return pb.ListAuditEventsRequest(
                workspace=call.parameter("workspace"),
                page_size=listing.page_size,
                skip=listing.skip,
                filter=listing.filter,
            )

        rpc = Rpc(service.stub.ListAuditEvents, request)
        events = Collection(AUDIT_EVENT, service.peer, rpc, rpc, items="events", create_rpc=rpc, delete_rpc=rpc)  # type: ignore[arg-type]
        return await events.list(call)

    return [route(PATH, GET=list_)]
