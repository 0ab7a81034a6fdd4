"""The gRPC door: every method of every service, for nobody, for a stranger to the workspace, for a role too low."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from services.access.policy import POLICY, Where, workspace_of
from services.access.roles import NEEDED, Permission, Role
from tests.doors import KEYS, Doors
from tests.rpcs import METHODS, set_names

HIDDEN, ABSENT = "hidden", "absent"
WORKSPACE_RPCS = [path for path, rule in POLICY.items() if rule.where is Where.WORKSPACE]


async def ask(guarded: Doors, path: str, request: Any, **metadata: str) -> tuple[grpc.StatusCode, str]:
    """Call a method with a message (or bytes); returns how it ended. A stream is read to its first message."""
    method = METHODS.get(path)
    channel = guarded.cluster.channel
    shown = tuple((key.replace("_", "-"), value) for key, value in metadata.items())
    data = request if isinstance(request, bytes) else request.SerializeToString()
    options: dict[str, Any] = {"timeout": 20, "metadata": shown}
    try:
        if method is not None and method.client_streaming:
            await anext(aiter(channel.stream_stream(path)(iter((data,)), **options)))
        elif method is None or not method.server_streaming:
            await channel.unary_unary(path)(data, **options)
        else:
            await anext(aiter(channel.unary_stream(path)(data, **options)))
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    except StopAsyncIteration:
        pass
    return grpc.StatusCode.OK, ""


def request_for(path: str, workspace: str) -> Any:
    message = GetMessageClass(METHODS[path].input_type)()
    set_names(message, workspace)
    return message


async def test_nobody_and_a_bad_key_get_nowhere(guarded: Doors) -> None:
    unauthenticated = grpc.StatusCode.UNAUTHENTICATED
    reflection = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    for path in (*METHODS, reflection):
        assert (await ask(guarded, path, b""))[0] is unauthenticated, path
        assert (await ask(guarded, path, b"", authorization="Bearer nobody's"))[0] is unauthenticated, path
        assert (await ask(guarded, path, b"", x_junctor_caller="AAAA"))[0] is unauthenticated, path
        forged = await ask(guarded, path, b"", x_junctor_service_token="x" * 43)
        assert forged[0] in (unauthenticated, grpc.StatusCode.PERMISSION_DENIED), path
    assert (await ask(guarded, "/grpc.health.v1.Health/Check", b""))[0] is grpc.StatusCode.OK


async def test_the_administrator_does_not_get_inside(guarded: Doors) -> None:
    for path, rule in POLICY.items():
        if rule.where is Where.INSIDE:
            code, _ = await ask(guarded, path, b"", authorization=f"Bearer {guarded.admin}")
            assert code is grpc.StatusCode.UNAUTHENTICATED, path


async def test_a_role_too_low_is_refused_by_every_method(guarded: Doors) -> None:
    keys = {role: await guarded.key(role.label) for role in (Role.VIEWER, Role.EDITOR)}
    for path in WORKSPACE_RPCS:
        needed = NEEDED[POLICY[path].permission]
        for role, key in keys.items():
            code, text = await ask(guarded, path, request_for(path, "default"), authorization=f"Bearer {key}")
            refused = code is grpc.StatusCode.PERMISSION_DENIED
            assert refused == (role < needed), (path, role, code, text)
            assert not refused or needed.label in text


async def test_scopes_hold_for_every_method(guarded: Doors) -> None:
    key = await guarded.key("Admin", scopes=["infer"])
    for path in WORKSPACE_RPCS:
        code, text = await ask(guarded, path, request_for(path, "default"), authorization=f"Bearer {key}")
        assert code is grpc.StatusCode.PERMISSION_DENIED, path
        assert POLICY[path].permission is not Permission.INFER, text


async def test_what_is_hidden_is_answered_as_what_is_absent(guarded: Doors) -> None:
    await guarded.workspace(HIDDEN)
    stranger = await guarded.key("Admin")
    shown = {"authorization": f"Bearer {stranger}"}
    for path in WORKSPACE_RPCS:
        if path.endswith("ProviderRegistry/UpdateProviderStatus"):
            continue  # asks for what set_names cannot know; the registry's own lookup is that of the others
        there, not_there = request_for(path, HIDDEN), request_for(path, ABSENT)
        assert workspace_of(POLICY[path], there) == HIDDEN
        hidden, absent = await ask(guarded, path, there, **shown), await ask(guarded, path, not_there, **shown)
        assert hidden[0] is absent[0] is not grpc.StatusCode.OK, (path, hidden, absent)
        assert hidden[1].replace(HIDDEN, ABSENT) == absent[1], path


async def test_nobody_gives_more_than_they_have(guarded: Doors) -> None:
    await guarded.workspace(HIDDEN)
    admin = await guarded.key("Admin")
    for body in (
        {"role": "PlatformAdmin"},
        {"role": "PlatformAdmin", "workspace": "default"},
        {"role": "Viewer", "workspace": HIDDEN},
        {"role": "Admin", "workspace": HIDDEN, "models": ["*"]},
    ):
        refused = await guarded.call("POST", KEYS, admin, json=body)
        assert refused.status_code in (403, 404, 422), body
    editor = await guarded.key("Editor")
    assert (
        await guarded.call("POST", KEYS, editor, json={"role": "Viewer", "workspace": "default"})
    ).status_code == 403
