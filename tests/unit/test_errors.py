"""The error tree, the proto's enum and the table of codes say the same."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import status_pb2

from junctor import errors, status
from junctor.errors import JunctorError
from junctor.v1 import errors_pb2

PREFIX = "ERROR_REASON_"
REASONS = sorted(
    name.removeprefix(PREFIX)
    for name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name
    if not name.endswith("UNSPECIFIED")
)


def classes(root: type[JunctorError] = JunctorError) -> list[type[JunctorError]]:
    return [cls for sub in root.__subclasses__() for cls in (sub, *classes(sub))]


def test_every_reason_of_the_proto_has_one_class_and_one_code() -> None:
    own = [cls.reason for cls in classes() if "reason" in vars(cls)]
    assert sorted(own) == REASONS
    assert sorted(errors.BY_REASON) == REASONS
    assert sorted(status.CODES) == REASONS
    assert all(cls.reason == reason for reason, cls in errors.BY_REASON.items())


def test_the_tree_in_the_docstring_lists_every_class() -> None:
    tree = (errors.__doc__ or "").split("An error is raised")[0]
    words = set(tree.replace("·", " ").split())
    assert [cls.__name__ for cls in classes() if cls.__module__ == errors.__name__ and cls.__name__ not in words] == []


@pytest.mark.parametrize("reason", REASONS)
def test_every_class_survives_the_wire_form(reason: str) -> None:
    error = errors.BY_REASON[reason]("text")
    rebuilt = status.from_status(status.to_status(error))
    assert type(rebuilt) is type(error)
    assert rebuilt.message == "text"


@pytest.mark.parametrize(
    ("upstream", "code"),
    [
        ("429", grpc.StatusCode.RESOURCE_EXHAUSTED),
        ("400", grpc.StatusCode.FAILED_PRECONDITION),
        ("404", grpc.StatusCode.FAILED_PRECONDITION),
        ("500", grpc.StatusCode.UNAVAILABLE),
        ("503", grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_a_refusal_travels_by_the_status_of_the_provider(upstream: str, code: grpc.StatusCode) -> None:
    assert status.code_of(errors.UpstreamRejected("no", metadata={"status": upstream})) is code


@pytest.mark.parametrize("code", [c for c in grpc.StatusCode if c is not grpc.StatusCode.OK], ids=lambda c: c.name)
def test_a_status_without_details_still_becomes_an_error(code: grpc.StatusCode) -> None:
    error = status.from_status(status_pb2.Status(code=code.value[0], message="from a proxy"))
    assert isinstance(error, JunctorError)
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED):
        assert status.code_of(error) is code


def test_an_unknown_reason_is_treated_by_its_code() -> None:
    sent = status.to_status(errors.NoRoute("new"))
    sent.details[0].Clear()
    info = status.error_details_pb2.ErrorInfo(reason="INVENTED_LATER", domain="junctor")
    sent.details[0].Pack(info)
    assert type(status.from_status(sent)) is errors.ResourceNotFound
