"""Log levels and sampling of a running process: what is taken, what is refused, and that it goes back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from services.runtime.exchange import Attempt, Call, Route
from services.runtime.finished import PROVIDER, Finished
from services.runtime.log_levels import LogLevels
from services.runtime.recent_calls import KEPT, RecentCalls, Sampling

NAME = "services.debugging_test"


@pytest.fixture(autouse=True)
def _levels_as_they_were() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("", NAME, "services.sampled")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


def call(request_id: str = "req-1", **fields: Any) -> Call:
    return Call(Route.PLAIN, "default", "", "POST", b"v1/chat/completions", request_id=request_id, **fields)


class Caller:
    principal = "key:abc"  # as Caller in services.access has it


def finished(one: Call, **fields: Any) -> Finished:
    attempts = (Attempt("default/up", 502, "status", 1.5), Attempt("default/other", 200, "", 2.5))
    return Finished(one, virtual_model="default/chat", attempts=attempts, **fields)


async def test_a_level_holds_for_its_time_and_goes_back() -> None:
    levels, logger = LogLevels(), logging.getLogger(NAME)
    logger.setLevel(logging.ERROR)
    levels.change({"level": "debug", "logger": NAME, "seconds": 3600})
    shown = levels.change({"level": "info", "logger": NAME, "seconds": 0.01})  # in place of the first
    assert logger.level == logging.INFO
    assert shown["levels"][NAME] == "info"
    async with asyncio.timeout(60):
        while logger.level != logging.ERROR:
            await asyncio.sleep(0.01)
    assert NAME not in levels.shown()["levels"]
    levels.change({"level": "debug", "logger": NAME, "seconds": 3600})
    levels.stop()
    assert logger.level == logging.ERROR


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ([], "must be an object"),
        ({"level": "loud"}, "level must be one of debug, info, warning, error"),
        ({"level": "debug", "logger": "no.such"}, "logger must be"),
        ({"level": "debug", "logger": 7}, "logger must be"),
        ({"level": "debug", "seconds": 0}, "seconds must be"),
        ({"level": "debug", "seconds": True}, "seconds must be"),
        ({"level": "debug", "seconds": 1e9}, "seconds must be"),
        ({"level": "debug", "more": 1}, "must be an object"),
    ],
    ids=str,
)
async def test_a_level_that_is_none_is_refused(body: Any, told: str) -> None:
    before = logging.getLogger().level
    with pytest.raises(ValueError, match=told):
        LogLevels().change(body)
    assert logging.getLogger().level == before


@pytest.mark.parametrize(
    ("rule", "one", "written"),
    [
        ({"by": "request-id", "value": "req-1"}, call(), True),
        ({"by": "request-id", "value": "req-2"}, call(), False),
        ({"by": "tag", "value": "team=a"}, call(tags=(("team", "a"),)), True),
        ({"by": "tag", "value": "team=b"}, call(tags=(("team", "a"),)), False),
        ({"by": "key", "value": "abc"}, call(principal=Caller()), True),
        ({"by": "key", "value": "key:abc"}, call(principal=Caller()), True),
        ({"by": "key", "value": "abc"}, call(), False),
        ({"by": "request-id", "value": "req-1", "seconds": 1e-9}, call(), False),
    ],
    ids=["id", "other id", "tag", "other tag", "key", "principal", "nobody", "over"],
)
async def test_chosen_calls_are_written_in_detail(
    rule: dict[str, Any], one: Call, written: bool, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger().setLevel(logging.ERROR)  # also where the rest is quiet
    sampling = Sampling()
    sampling.change({"rules": [rule]})
    sampling(finished(one, source=PROVIDER, status=502, total_seconds=0.5))
    lines = [record for record in caplog.records if record.message == "request in detail"]
    assert bool(lines) == written
    for line in lines:
        assert vars(line)["attempts"][0] == {"provider": "default/up", "status": 502, "failure": "status", "ms": 1.5}


async def test_a_share_is_of_the_requests_and_off_is_off() -> None:
    sampling = Sampling()
    sampling.change({"rules": [{"by": "tag", "value": "a=b", "share": 0.25}]})
    written: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = written.append  # type: ignore[method-assign]
    logging.getLogger("services.sampled").addHandler(handler)
    try:
        for number in range(2000):
            sampling(finished(call(f"req-{number}", tags=(("a", "b"),))))
        assert 400 < len(written) < 600
        assert sampling.change({"rules": []}) == {"rules": []}
        sampling(finished(call(tags=(("a", "b"),))))
        assert 400 < len(written) < 600
    finally:
        logging.getLogger("services.sampled").removeHandler(handler)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"rules": {}},
        {"rules": [{}]},
        {"rules": [{"by": "none", "value": "x"}]},
        {"rules": [{"by": "tag", "value": "x"}]},
        {"rules": [{"by": "key", "value": ""}]},
        {"rules": [{"by": "key", "value": "x", "share": 0}]},
        {"rules": [{"by": "key", "value": "x", "seconds": -1}]},
        {"rules": [{"by": "key", "value": "x"}] * 33},
    ],
    ids=lambda body: str(body)[:60],
)
async def test_rules_that_are_none_are_refused_and_change_nothing(body: Any) -> None:
    sampling = Sampling()
    sampling.change({"rules": [{"by": "key", "value": "kept"}]})
    with pytest.raises(ValueError, match=r"rules|body"):
        sampling.change(body)
    assert [rule["value"] for rule in sampling.shown()["rules"]] == ["kept"]


async def test_the_last_calls_are_remembered_without_their_content() -> None:
    calls = RecentCalls()
    for number in range(KEPT + 5):
        calls(finished(call(f"req-{number}", body=b"canary", headers=[(b"x", b"canary")]), verdict="complete"))
    shown = calls.shown()
    assert len(shown) == KEPT
    assert (shown[0]["request_id"], shown[0]["verdict"], shown[0]["model"]) == (
        f"req-{KEPT + 4}",
        "complete",
        "default/chat",
    )
    assert "canary" not in repr(shown)
    assert "canary" not in repr(calls._calls)
