"""The adapter sees what an async servicer does; grpcio-testing alone does not."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc_testing
import pytest

from junctor import errors
from junctor.errors import FieldViolation, InvalidField, JunctorError, ResourceRef
from junctor.v1 import workspaces_pb2 as pb
from junctor.v1 import workspaces_pb2_grpc
from tests.grpc_testing_adapter import UnaryServer

SERVICE = pb.DESCRIPTOR.services_by_name["Workspaces"]


class Servicer(workspaces_pb2_grpc.WorkspacesServicer):
    def __init__(self, raising: BaseException | None = None) -> None:
        self.raising = raising
        self.loop = asyncio.get_running_loop()

    async def GetWorkspace(self, request: Any, context: Any) -> pb.Workspace:  # noqa: N802
        await asyncio.sleep(0)
        assert asyncio.get_running_loop() is self.loop
        if self.raising is not None:
            raise self.raising
        said = dict(context.invocation_metadata()).get("x-said", "")
        return pb.Workspace(name=request.name, description=said)

    async def DeleteWorkspace(self, request: Any, context: Any) -> None:  # noqa: N802
        await context.abort(grpc.StatusCode.DATA_LOSS, "by hand")

    def ListWorkspaces(self, request: Any, context: Any) -> pb.ListWorkspacesResponse:  # noqa: N802
        return pb.ListWorkspacesResponse()


async def test_grpcio_testing_alone_reports_ok_with_a_coroutine_that_never_ran() -> None:
    server = grpc_testing.server_from_dictionary(
        {SERVICE: Servicer(errors.NoRoute("no"))}, grpc_testing.strict_real_time()
    )
    method = SERVICE.methods_by_name["GetWorkspace"]
    rpc = server.invoke_unary_unary(method, (), pb.GetWorkspaceRequest(), None)
    response, _, code, _ = await asyncio.to_thread(rpc.termination)
    assert code is grpc.StatusCode.OK
    assert asyncio.iscoroutine(response)
    response.close()


async def test_an_answer_is_the_message() -> None:
    ended = await UnaryServer({SERVICE: Servicer()}).call(
        "GetWorkspace", pb.GetWorkspaceRequest(name="w1"), metadata=(("x-said", "hello"),)
    )
    assert ended.code is grpc.StatusCode.OK
    assert ended.response == pb.Workspace(name="w1", description="hello")


@pytest.mark.parametrize(
    "raised",
    [
        errors.ResourceNotFound("no w1", resource=ResourceRef("workspace", "w1")),
        InvalidField.of(FieldViolation("name", "too short"), FieldViolation("description", "too long")),
        errors.StaleVersion("old"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_servicer_that_raises_is_seen_as_its_status(raised: JunctorError) -> None:
    ended = await UnaryServer({SERVICE: Servicer(raised)}).call("GetWorkspace", pb.GetWorkspaceRequest())
    assert ended.response is None
    assert ended.details == raised.message
    assert (type(ended.error), vars(ended.error)) == (type(raised), vars(raised))


async def test_an_unknown_exception_is_internal_without_its_text() -> None:
    ended = await UnaryServer({SERVICE: Servicer(KeyError("private"))}).call("GetWorkspace", pb.GetWorkspaceRequest())
    assert ended.code is grpc.StatusCode.INTERNAL
    assert "private" not in ended.details


async def test_an_abort_by_hand_is_seen() -> None:
    ended = await UnaryServer({SERVICE: Servicer()}).call("DeleteWorkspace", pb.DeleteWorkspaceRequest())
    assert (ended.code, ended.details) == (grpc.StatusCode.DATA_LOSS, "by hand")


async def test_a_method_that_is_not_async_fails() -> None:
    ended = await UnaryServer({SERVICE: Servicer()}).call("ListWorkspaces", pb.ListWorkspacesRequest())
    assert ended.code is grpc.StatusCode.INTERNAL
