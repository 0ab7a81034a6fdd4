"""A line end in any text that is stored never ends a header line: neither on the way to a provider nor back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from junctor.v1 import provider_registry_pb2 as pb
from junctor.v1.provider_registry_pb2_grpc import ProviderRegistryStub
from tests.cluster import Cluster, running
from tests.e2e.core import GATEWAY, Thread, thread
from tests.security.contract import GOOD, class_of, is_map, put, rpcs
from tests.upstream import ScriptedUpstream

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]

EVIL = ("x\r\nx-evil: 1", "x\nx-evil: 1", "x\rx-evil: 1", "x\r\n\r\nHTTP/1.1 200 OK\r\nx-evil: 1")
RPCS = {rpc.name: rpc for rpc in rpcs()}
TEXTS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)


def texts(descriptor: Descriptor, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of every field of a message that holds text, within others too; ``{}`` is a map's key."""
    found: list[tuple[str, ...]] = []
    for field in descriptor.fields:
        path = (*prefix, field.name)
        if is_map(field):
            found += [path, (*path, "{}")]
        elif field.message_type is not None and len(path) < 4:
            found += texts(field.message_type, path)
        elif field.type in TEXTS:
            found.append(path)
    return found


def plant(message: Message, path: tuple[str, ...], text: str) -> None:
    """Put a text where a path leads to."""
    field = message.DESCRIPTOR.fields_by_name[path[0]]
    if is_map(field):
        getattr(message, field.name)[text if path[1:] == ("{}",) else "x-kept"] = text
    elif path[1:]:
        inner = getattr(message, field.name)
        plant(inner.add() if field.is_repeated else inner, path[1:], text)
    else:
        value: Any = text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text
        put(message, field, [value] if field.is_repeated else value)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def junctor(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Thread]:
    async with ScriptedUpstream() as upstream, running(tmp_path_factory.mktemp("lines")) as cluster:
        yield await thread(cluster, upstream)


FIELDS = [(kind, path) for kind in sorted(GOOD) for path in texts(RPCS[f"Get{kind}"].response)]


@pytest.mark.parametrize(("kind", "path"), FIELDS, ids=[f"{kind}.{'.'.join(path)}" for kind, path in FIELDS])
async def test_no_stored_text_makes_a_header_line(junctor: Thread, kind: str, path: tuple[str, ...]) -> None:
    create = RPCS[f"Create{kind}"]
    for number, evil in enumerate(EVIL[:2]):
        request: Any = class_of(create.request)()
        holder = next(
            field.name for field in create.request.fields if field.message_type and field.message_type.name == kind
        )
        resource = getattr(request, holder)
        resource.CopyFrom(class_of(RPCS[f"Get{kind}"].response)(**{**GOOD[kind], "name": f"evil-{number}"}))
        if kind == "Provider":
            resource.host_url, resource.admin_state = junctor.upstream.url, pb.ADMIN_STATE_ACTIVE
        if "value" in create.request.fields_by_name:
            request.value = b"v" if create.request.fields_by_name["value"].type == FieldDescriptor.TYPE_BYTES else "v"
        plant(resource, path, evil)
        made = await _made(junctor, create.path, request, class_of(create.response))
        if made is None:
            continue
        await _served(junctor, f"{GATEWAY}/default/provider/{made.name}/-/v1/x" if kind == "Provider" else "/v1/models")
        await _made(
            junctor,
            RPCS[f"Delete{kind}"].path,
            class_of(RPCS[f"Delete{kind}"].request)(
                **{key: getattr(made, key) for key in ("workspace", "name") if key in made.DESCRIPTOR.fields_by_name}
            ),
            class_of(RPCS[f"Delete{kind}"].response),
        )


@pytest.mark.parametrize("evil", EVIL)
async def test_no_secret_makes_a_header_line(junctor: Thread, evil: str) -> None:
    http = junctor.http
    secrets = "/apis/secrets/v2/workspaces/default/secrets"
    answer = await http.post(secrets, json={"name": "evil-key", "value": evil})
    provider = pb.Provider(workspace="default", name="evil-key", host_url=junctor.upstream.url)
    if answer.status_code == 201:
        provider.api_key_secret_name = "evil-key"
        assert isinstance(junctor.access, Cluster)
        stub = ProviderRegistryStub(junctor.access.channel)
        await stub.CreateProvider(pb.CreateProviderRequest(provider=provider))
        served = await _served(junctor, f"{GATEWAY}/default/provider/evil-key/-/v1/x")
        assert served != 200
        await stub.DeleteProvider(pb.DeleteProviderRequest(workspace="default", name="evil-key"))
        await http.delete(f"{secrets}/evil-key")


async def _made(junctor: Thread, path: str, request: Message, answer: type[Message]) -> Any:
    call = junctor.access.channel.unary_unary(
        path,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    try:
        return await call(request, timeout=20)
    except grpc.aio.AioRpcError as error:
        assert error.code() not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)  # noqa: PT017 - of every refusal
        return None


async def _served(junctor: Thread, path: str) -> int:
    """Ask for a path, byte by byte; no line of what comes back, or of what the provider got, is the planted one."""
    url = junctor.http.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    async with asyncio.timeout(60):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head = answer.partition(b"\r\n\r\n")[0]
    assert b"x-evil" not in head.lower()
    for request in junctor.upstream.requests:
        assert b"x-evil" not in {name.lower() for name, _ in request.headers}
    return int(answer.split(b" ")[1])
