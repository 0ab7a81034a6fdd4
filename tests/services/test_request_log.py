"""The line of each request: what is in it, what never is, and who is sampled."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest

from junctor import errors
from services.runtime.auth import Secret
from services.runtime.exchange import Attempt, Call, Route, Usage
from services.runtime.finished import Finished
from services.runtime.request_log import MOST, RequestLog
from services.runtime.telemetry import REDACTED, JsonFormatter, Redactor, TextFormatter


def ended(request_id: str = "req-00ff-1", tags: tuple[tuple[str, str], ...] = (), **fields: Any) -> Finished:
    call = Call(Route.OPENAI, "team", "", "POST", b"chat/completions", request_id=request_id, tags=tags)
    call.body = b'{"messages": "a prompt"}'
    given: dict[str, Any] = {
        "virtual_model": "team/chat",
        "provider": "team/p",
        "upstream_model": "vendor/m",
        "status": 200,
        "verdict": "complete",
        "attempts": (Attempt("team/p", 200, "", 12.0),),
        "usage": Usage(100, 11, None, None),
        "upstream_seconds": 0.012,
        "total_seconds": 0.0125,
    }
    return Finished(call, **given | fields)


FAILED: dict[str, Any] = {
    "verdict": "failed",
    "source": "provider",
    "status": 0,
    "error": errors.UpstreamTimeout("internal text"),
}


@pytest.fixture(autouse=True)
def everything_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "services.requests")


async def written(*calls: Finished, sample: float = 1.0, form: type[logging.Formatter] = JsonFormatter) -> list[str]:
    redactor = Redactor()
    redactor.register(Secret("hunter2-token"))
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(form(redactor))  # type: ignore[arg-type]  # both take a redactor
    log = RequestLog(handler, sample=sample)
    for call in calls:
        log(call)
    await log.stop()
    return str(handler.stream.getvalue()).splitlines()


async def test_a_request_is_one_json_object_with_all_that_is_known() -> None:
    (line,) = await written(ended())
    found = json.loads(line)
    assert found.pop("ts").endswith("Z")
    assert found == {
        "level": "info", "logger": "services.requests", "message": "request", "request_id": "req-00ff-1",
        "route": "openai", "kind": "chat", "workspace": "team", "verdict": "complete", "ms": 12.5, "status": 200,
        "model": "team/chat", "provider": "team/p", "upstream_model": "vendor/m", "upstream_ms": 12.0,
        "input_tokens": 100, "output_tokens": 11,
    }  # fmt: skip


async def test_a_failure_says_whose_and_which_but_not_its_text() -> None:
    (line,) = await written(ended(**FAILED))
    found = json.loads(line)
    assert (found["level"], found["error"], found["error_source"]) == ("warning", "upstream_timeout", "provider")
    assert "internal text" not in line
    assert "prompt" not in line


async def test_the_caller_is_named_by_its_principal() -> None:
    class Somebody:
        principal = "key:key-1"

    call = ended()
    call.call.principal = Somebody()
    assert json.loads((await written(call))[0])["caller"] == "key:key-1"


async def test_what_a_caller_chose_is_redacted() -> None:
    tags = (("api_key", "plain"), ("note", "Bearer abcdefghijkl"), ("team", "blue"))
    (line,) = await written(ended(request_id="sk-abcdefgh12345678", tags=tags))
    found = json.loads(line)
    assert found["request_id"] == REDACTED
    assert found["tags"] == {"api_key": REDACTED, "note": f"Bearer {REDACTED}", "team": "blue"}
    assert "hunter2" not in (await written(ended(request_id="hunter2-token")))[0]


@pytest.mark.parametrize(("sample", "least", "most"), [(0.0, 0, 0), (1.0, 1000, 1000), (0.25, 150, 350)])
async def test_the_share_of_good_ones_is_written_and_every_other(sample: float, least: int, most: int) -> None:
    good = [ended(request_id=f"req-77-{number:x}") for number in range(1000)]
    lines = await written(*good, ended(**FAILED), ended(verdict="cancelled", source="caller"), sample=sample)
    verdicts = [json.loads(line)["verdict"] for line in lines]
    assert least <= verdicts.count("complete") <= most
    assert (verdicts.count("failed"), verdicts.count("cancelled")) == (1, 1)


async def test_the_level_of_the_log_holds_for_requests_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "services.requests")
    lines = await written(ended(), ended(verdict="cancelled", source="caller"), ended(**FAILED))
    assert [json.loads(line)["verdict"] for line in lines] == ["failed"]


async def test_on_a_terminal_it_is_text() -> None:
    (line,) = await written(ended(), form=TextFormatter)
    assert "requests: request request_id=req-00ff-1 route=openai" in line
    assert "verdict=complete" in line


async def test_more_than_can_wait_is_dropped_and_counted() -> None:
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(JsonFormatter(Redactor()))
    log = RequestLog(handler)
    for _ in range(MOST + 5):
        log(ended())
    (family,) = log.families()
    assert family.samples[0].value == 5
    await log.stop()
    assert len(handler.stream.getvalue().splitlines()) == MOST


async def test_a_stream_that_is_closed_hurts_nobody() -> None:
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(JsonFormatter(Redactor()))
    handler.stream.close()
    log = RequestLog(handler)
    log(ended())
    await log.stop()
