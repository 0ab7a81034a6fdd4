from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from services.runtime import telemetry
from services.runtime.auth import Secret
from services.runtime.telemetry import REDACTED, Redactor


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def logged(form: str = "json", level: str = "info") -> tuple[io.StringIO, Redactor, logging.Logger]:
    stream = io.StringIO()
    redactor = telemetry.configure(level=level, form=form, stream=stream)
    return stream, redactor, logging.getLogger("services.x")


def test_json_is_one_object_a_line_with_the_extras() -> None:
    stream, _, log = logged()
    log.info("two\nlines", extra={"request_id": "r1", "ms": 1.5, "attempts": ["a", 2]})
    [line] = stream.getvalue().splitlines()
    record = json.loads(line)
    assert record.pop("ts").endswith("Z")
    assert record == {
        "level": "info",
        "logger": "services.x",
        "message": "two\nlines",
        "request_id": "r1",
        "ms": 1.5,
        "attempts": ["a", 2],
    }


def test_a_traceback_stays_in_its_json_line() -> None:
    stream, _, log = logged()
    try:
        raise ValueError("token=abcdefgh")
    except ValueError:
        log.exception("failed")
    [line] = stream.getvalue().splitlines()
    assert "ValueError" in json.loads(line)["exception"]
    assert "abcdefgh" not in line


def test_text_quotes_extras_and_keeps_a_message_on_its_line() -> None:
    stream, _, log = logged("text")
    log.warning("a\nb", extra={"name_of": "x y", "n": 1})
    [line] = stream.getvalue().splitlines()
    assert line.endswith('warning x: a\\nb name_of="x y" n=1')


@pytest.mark.parametrize(("stream", "is_json"), [(Terminal(), False), (io.StringIO(), True)], ids=["terminal", "pipe"])
def test_auto_is_text_on_a_terminal_only(stream: io.StringIO, is_json: bool) -> None:
    telemetry.configure(stream=stream)
    logging.getLogger("x").warning("hello")
    assert stream.getvalue().startswith("{") is is_json


def test_libraries_are_quiet_and_come_through_the_same_handler() -> None:
    stream, _, _ = logged(level="info")
    logging.getLogger("uvicorn.access").info("GET /")
    logging.getLogger("sqlalchemy.engine").info("SELECT")
    logging.getLogger("alembic").warning("careful")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["careful"]


@pytest.mark.parametrize(
    "text",
    [
        "authorization: Bearer hunter2hunter2",
        "Authorization=hunter2hunter2",
        "sent Bearer hunter2hunter2 upstream",
        '{"api_key": "hunter2hunter2"}',
        "api-key=hunter2hunter2&x=1",
        "x-api-key: hunter2hunter2",
        "client_secret=hunter2hunter2",
        "access_token='hunter2hunter2'",
        "postgresql://u:hunter2hunter2@db/x",
        "sk-hunter2hunter2",
        "nvapi-hunter2hunter2",
        "cookie: hunter2hunter2",
        "PASSWORD=hunter2hunter2",
    ],
)
def test_what_looks_like_a_credential_is_replaced(text: str) -> None:
    shown = Redactor().text(text)
    assert "hunter2" not in shown
    assert REDACTED in shown


@pytest.mark.parametrize(
    "text", ["tokens=12 input_tokens=5", "default/demo-echo-1", "secretary: Bob", "GET /v1/models?page_size=3"]
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert Redactor().text(text) == text


@pytest.mark.parametrize("key", ["authorization", "api_key", "x-api-key", "service_token", "client_secret", "apiKey"])
def test_an_extra_is_judged_by_its_key(key: str) -> None:
    stream, _, log = logged()
    log.info("m", extra={key: "plain", "nested": {key: "plain"}})
    record = json.loads(stream.getvalue())
    assert (record[key], record["nested"][key]) == (REDACTED, REDACTED)


def test_extras_that_only_sound_secret_are_kept() -> None:
    stream, _, log = logged()
    log.info("m", extra={"input_tokens": 3, "secret_name": "default/key"})
    record = json.loads(stream.getvalue())
    assert (record["input_tokens"], record["secret_name"]) == (3, "default/key")


def test_registered_values_are_replaced_everywhere() -> None:
    stream, redactor, log = logged()
    redactor.register(Secret("zebra-zebra"))
    redactor.register(Secret("m"))
    log.info("saw zebra-zebra", extra={"where": ["zebra-zebra"]})
    assert "zebra" not in stream.getvalue()
    assert json.loads(stream.getvalue())["message"] == f"saw {REDACTED}"
