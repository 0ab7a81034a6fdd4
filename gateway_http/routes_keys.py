"""``/apis/auth/v2/keys`` over the service ``Keys``. A key's value is in the answer to its POST and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from gateway_http import queries
from gateway_http.collection import VALIDATE, Collection, Rpc, Target
from gateway_http.endpoint import Answer, Call, route
from gateway_http.queries import Listing
from gateway_http.rendering import render
from gateway_http.resources import KEY
from gateway_http.stubs import Service
from gateway_http.translate import Reader
from junctor.v1 import access_pb2 as pb

if TYPE_CHECKING:
    from junctor.v1.access_pb2_grpc import KeysAsyncStub

PATH = "/apis/auth/v2/keys"


def routes(service: Service[KeysAsyncStub]) -> list[Route]:
    """Return the routes of keys."""
    stub = service.stub

    def collection(call: Call) -> Collection:
        ended = queries.flag(call.query, "show_ended")
        return Collection(
            resource=KEY,
            peer=service.peer,
            get_rpc=Rpc(stub.GetKey, lambda at: pb.GetKeyRequest(id=at.name)),
            list_rpc=Rpc(stub.ListKeys, lambda listing: _listing(listing, call, ended=ended)),
            items="keys",
            create_rpc=Rpc(stub.CreateKey, lambda new: pb.CreateKeyRequest(key=new)),
            delete_rpc=Rpc(stub.RevokeKey, lambda at: pb.RevokeKeyRequest(id=at.name)),
        )

    async def list_(call: Call) -> Answer:
        return await collection(call).list(call)

    async def create(call: Call) -> Answer:
        keys, reader = collection(call), Reader(await call.content())
        asked = reader.read(pb.ApiKey(), KEY.settable)
        made: pb.CreateKeyResponse = await keys.write(reader, stub.CreateKey, keys.create_rpc.request(asked))
        content = {**render(KEY, made.key), "value": made.value}
        return Answer(201, content, {**keys.revision(made.key.resource_version), "cache-control": "no-store"})

    async def validate(call: Call) -> Answer:
        keys, reader = collection(call), Reader(await call.content())
        asked = reader.read(pb.ApiKey(), KEY.settable)
        request = pb.CreateKeyRequest(key=asked, validate_only=True)  # type: ignore[arg-type]
        checked: pb.CreateKeyResponse = await keys.write(reader, stub.CreateKey, request)
        return Answer(200, render(KEY, checked.key))

    async def get(call: Call) -> Answer:
        keys = collection(call)
        return Answer(200, render(KEY, await keys.call(keys.get_rpc, _at(call))))

    async def revoke(call: Call) -> Answer:
        keys = collection(call)
        gone: pb.RevokeKeyResponse = await keys.call(keys.delete_rpc, _at(call))
        return Answer(204, None, keys.revision(gone.revision))

    return [
        route(PATH, GET=list_, POST=create),
        route(PATH + VALIDATE, POST=validate),
        route(PATH + "/{id}", GET=get, DELETE=revoke),
    ]


def _at(call: Call) -> Target:
    return Target("", call.path["id"])


def _listing(listing: Listing, call: Call, *, ended: bool) -> pb.ListKeysRequest:
    return pb.ListKeysRequest(workspace=call.parameter("workspace"), show_ended=ended, **listing.arguments)
