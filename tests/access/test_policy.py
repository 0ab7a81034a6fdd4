"""The table of RPCs: complete, as the docs have it, and about workspaces that requests really have."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.message_factory import GetMessageClass

from services.access.policy import POLICY, Where, matrix, workspace_of
from services.access.roles import NEEDED, Permission, Role
from services.assembly import POLICY as OPENNESS
from services.runtime.auth import Access
from tests.rpcs import METHODS, set_names

DOC = Path(__file__).parents[2] / "docs/access.md"


def test_every_rpc_has_a_row_and_every_row_an_rpc() -> None:
    assert {path for path in POLICY if path.startswith("/junctor.")} == METHODS.keys()


@pytest.mark.parametrize("path", METHODS)
def test_a_row_agrees_with_who_may_call_its_service(path: str) -> None:
    service = METHODS[path].containing_service.full_name
    assert (POLICY[path].where is Where.INSIDE) == (OPENNESS[service] is Access.INTERNAL)


@pytest.mark.parametrize("path", METHODS)
def test_nothing_of_junctors_own_is_open_to_nobody(path: str) -> None:
    assert POLICY[path].where is not Where.NOWHERE


@pytest.mark.parametrize("path", [path for path, rule in POLICY.items() if rule.where is Where.WORKSPACE])
def test_a_row_finds_the_workspace_in_its_request(path: str) -> None:
    message = GetMessageClass(METHODS[path].input_type)()
    rule = POLICY[path]
    assert workspace_of(rule, message) == ""
    set_names(message, "team")
    assert workspace_of(rule, message) == "team"


WRITES = ("Create", "Update", "Delete")


@pytest.mark.parametrize("path", [path for path in METHODS if path.rpartition("/")[2].startswith(WRITES)])
def test_no_write_is_open_to_viewers(path: str) -> None:
    if "/junctor.v1.Inference/" in path:
        return
    rule = POLICY[path]
    assert NEEDED[rule.permission] >= Role.EDITOR, path


def test_the_smallest_role_of_each_permission() -> None:
    assert NEEDED == {
        Permission.READ: Role.VIEWER,
        Permission.INFER: Role.VIEWER,
        Permission.WRITE: Role.EDITOR,
        Permission.MANAGE: Role.ADMIN,
        Permission.PLATFORM: Role.PLATFORM_ADMIN,
    }


def test_the_document_has_the_table() -> None:
    assert matrix() in DOC.read_text()
