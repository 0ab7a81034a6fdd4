"""A caller that has no stubs: it learns the contract by reflection, as grpcurl and API browsers do, and calls by it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compat.place import Edge
from tests.compat.worker import CALL_SECONDS, clean_environment

CLIENT = Path(__file__).parent / "clients" / "grpc_reflection_client.py"


@pytest.fixture(scope="module")
def said(edge: Edge, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("reflection")
    command = [sys.executable, str(CLIENT), edge.grpc]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=CALL_SECONDS,
        check=False,
        cwd=folder,
        env=clean_environment(folder),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_public_service_is_listed(said: str) -> None:
    listed = re.findall(r"^service (\S+)$", said, re.M)
    for name in ("Inference", "InferenceRouter", "Workspaces", "ModelRegistry", "VirtualModels", "ProviderRegistry"):
        assert f"junctor.v1.{name}" in listed
    assert "grpc.health.v1.Health" in listed


def test_a_call_is_answered(said: str) -> None:
    assert "answer You said: Hello" in said
    assert "model default/demo-echo-1" in said


def test_a_stream_is_whole(said: str) -> None:
    assert "streamed You said: Hello" in said
    assert "verdict VERDICT_COMPLETE" in said


def test_an_error_has_details_that_can_be_read(said: str) -> None:
    assert "refused NOT_FOUND NO_ROUTE junctor" in said
