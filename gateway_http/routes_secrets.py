"""``/apis/secrets/v2/workspaces/{ws}/secrets`` over the service ``SecretStore``, which never returns a value.

There is no ``…/{name}/access``: plaintext does not leave over HTTP, so that path is as unknown as any other.
"""

from __future__ import annotations

from dataclasses import replace as with_fields
from typing import TYPE_CHECKING

from starlette.routing import Route

from gateway_http.collection import VALIDATE, Collection, Rpc
from gateway_http.endpoint import Answer, Call, route
from gateway_http.rendering import render
from gateway_http.resources import SECRET, SECRET_VALUE, Key
from gateway_http.stubs import Service
from gateway_http.translate import Reader
from junctor.v1 import secrets_pb2 as pb

if TYPE_CHECKING:
    from junctor.v1.secrets_pb2_grpc import SecretStoreAsyncStub

PATH = "/apis/secrets/v2/workspaces/{workspace}/secrets"


def routes(service: Service[SecretStoreAsyncStub]) -> list[Route]:
    """Return the routes of secrets."""
    stub = service.stub
    secrets = Collection(
        resource=SECRET,
        peer=service.peer,
        get_rpc=Rpc(stub.GetSecret, lambda at: pb.GetSecretRequest(workspace=at.workspace, name=at.name)),
        list_rpc=Rpc(
            stub.ListSecrets,
            lambda listing: pb.ListSecretsRequest(workspace=listing.workspace, **listing.arguments),
        ),
        items="secrets",
        create_rpc=Rpc(stub.CreateSecret, lambda request: request),
        delete_rpc=Rpc(
            stub.DeleteSecret,
            lambda at: pb.DeleteSecretRequest(
                workspace=at.workspace, name=at.name, resource_version=at.resource_version
            ),
        ),
    )

    async def create(call: Call) -> Answer:
        reader, request = await to_create(call)
        return secrets.written(await secrets.write(reader, stub.CreateSecret, request), 201)

    async def validate(call: Call) -> Answer:
        reader, request = await to_create(call)
        request.validate_only = True
        return Answer(200, render(SECRET, await secrets.write(reader, stub.CreateSecret, request)))

    async def to_create(call: Call) -> tuple[Reader, pb.CreateSecretRequest]:
        reader = Reader(await call.content())
        secret = pb.Secret()
        reader.read(secret, SECRET.settable)
        value = reader.text(SECRET_VALUE)
        secret.workspace = call.path["workspace"]
        return reader, pb.CreateSecretRequest(secret=secret, value=value or "")

    async def update(call: Call) -> Answer:
        reader = Reader(await call.content())
        request = pb.UpdateSecretRequest(
            value=reader.text(with_fields(SECRET_VALUE, required=False)),
            description=reader.text(_DESCRIPTION),
            resource_version=reader.text(Key("resource_version")) or "",
        )
        reader.read(request, [Key("labels")])
        request.workspace, request.name = call.path["workspace"], call.path["name"]
        return secrets.written(await secrets.write(reader, stub.UpdateSecret, request))

    return [
        route(PATH, echoes=False, GET=secrets.list, POST=create),
        route(PATH + VALIDATE, echoes=False, POST=validate),
        route(PATH + "/{name}", echoes=False, GET=secrets.get, PATCH=update, DELETE=secrets.delete),
    ]


_DESCRIPTION = next(key for key in SECRET.keys if key.name == "description")
