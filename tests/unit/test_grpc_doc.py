"""docs/grpc.md says what the code does: its tables are held against it, its service config is used as it stands."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import grpc
import pytest

from junctor import errors
from junctor.errors import JunctorError
from junctor.status import CODES, code_of, to_status
from junctor.v1 import inference_pb2 as pb
from junctor.v1 import inference_pb2_grpc
from services.inference_router.invoke_servicer import pushback, pushback_ms
from services.runtime.auth import Access
from services.runtime.server import create_server

DOC = (Path(__file__).parents[2] / "docs" / "grpc.md").read_text()
PROVIDER = "provider/default/p"


def between(mark: str) -> str:
    return DOC.partition(f"<!-- {mark} -->\n")[2].partition(f"<!-- /{mark} -->")[0]


def rows(mark: str) -> list[list[str]]:
    lines = between(mark).splitlines()[2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


def of_row(what: str) -> JunctorError:
    """Make the error that a row of the providers' table is about, as the router does."""
    if answered := re.fullmatch(r"answered (\d+)( with Retry-After)?", what):
        metadata = {"status": answered[1]}
        wait = 1.5 if answered[2] else None
        return errors.UpstreamRejected("x", domain=PROVIDER, metadata=metadata, retry_after=wait)
    sent = {"request_sent": "true"}
    return {
        "could not be connected to": errors.UpstreamUnreachable("x", metadata={"request_sent": "false"}),
        "closed before it answered": errors.UpstreamUnreachable("x", metadata=sent),
        "let a timer run out": errors.UpstreamTimeout("x", metadata=sent),
        "answered what is no answer": errors.UpstreamInvalid("x", metadata=sent),
        "broke off": errors.StreamBroken("x"),
    }[what]


@pytest.mark.parametrize("row", rows("provider"), ids=lambda row: row[0])
def test_the_table_of_providers_failures_is_true(row: list[str]) -> None:
    what, code, reason, push, _ = row
    error = of_row(what)
    assert (code_of(error).name, error.reason) == (code, reason)
    told = pushback_ms(error)
    assert {None: "–", -1: "-1", 1500: "as RetryInfo"}[told] == push
    has_retry_info = any(detail.TypeName() == "google.rpc.RetryInfo" for detail in to_status(error).details)
    assert has_retry_info is (told is not None and told >= 0)


def test_the_tables_have_every_reason() -> None:
    ours = {row[0]: row[1] for row in rows("own")}
    assert ours | {row[2]: "" for row in rows("provider")} == ours | {
        reason: "" for reason, cls in errors.BY_REASON.items() if issubclass(cls, errors.UpstreamError)
    }
    assert ours == {
        reason: CODES[reason].name
        for reason, cls in errors.BY_REASON.items()
        if not issubclass(cls, errors.UpstreamError)
    }


@pytest.mark.parametrize("status", range(400, 600))
def test_a_providers_refusal_never_looks_like_one_of_junctors_own(status: int) -> None:
    code = code_of(errors.UpstreamRejected("x", domain=PROVIDER, metadata={"status": str(status)}))
    assert code not in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


@pytest.mark.parametrize("retry_after", [None, 0.25], ids=["no time", "a time"])
@pytest.mark.parametrize("reason", sorted(errors.BY_REASON))
def test_retry_info_and_pushback_never_contradict_each_other(reason: str, retry_after: float | None) -> None:
    told = pushback_ms(errors.BY_REASON[reason]("x", retry_after=retry_after))
    assert told == 250 if retry_after else told in {None, -1}


class Failing(inference_pb2_grpc.InferenceServicer):
    """Fails the first calls with what the test says."""

    def __init__(self, *failures: JunctorError) -> None:
        self.failures = list(failures)
        self.calls = 0

    async def CreateChatCompletion(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.calls += 1
        with pushback(context):
            if self.failures:
                raise self.failures.pop(0)
        return pb.ChatCompletionResponse(id="whole")


NOT_SENT = errors.UpstreamUnreachable("x", domain=PROVIDER, metadata={"request_sent": "false"})
SENT = errors.UpstreamUnreachable("x", domain=PROVIDER, metadata={"request_sent": "true"})
FULL = errors.Overloaded("x", retry_after=0.05)


@pytest.mark.parametrize(
    ("failures", "calls", "code"),
    [
        ([], 1, "OK"),
        ([NOT_SENT, FULL], 3, "OK"),
        ([SENT], 1, "UNAVAILABLE"),
        ([FULL, SENT], 2, "UNAVAILABLE"),
        ([errors.NoRoute("x")], 1, "NOT_FOUND"),
        ([errors.UpstreamRejected("x", metadata={"status": "401"})], 1, "FAILED_PRECONDITION"),
        ([NOT_SENT] * 9, 4, "UNAVAILABLE"),
    ],
    ids=["no failure", "twice for nothing", "may have cost", "then may have cost", "no route", "401", "always"],
)
async def test_the_service_config_repeats_what_cost_nothing(
    failures: list[JunctorError], calls: int, code: str
) -> None:
    config = json.loads(between("config").partition("```json\n")[2].partition("```")[0])
    servicer = Failing(*failures)
    server = create_server(policy={"junctor.v1.Inference": Access.PUBLIC}, token=None)
    server.add(inference_pb2_grpc.add_InferenceServicer_to_server, servicer)
    target = f"127.0.0.1:{await server.start('127.0.0.1', 0)}"
    options = [("grpc.service_config", json.dumps(config))]
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        call = inference_pb2_grpc.InferenceStub(channel).CreateChatCompletion(pb.ChatCompletionRequest(), timeout=30)
        assert (await call.code()).name == code
    await server.stop(0)
    assert servicer.calls == calls
