"""What both clients share and needs no server: retries, errors, filters, config, records, twins."""

from __future__ import annotations

import inspect
import json
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import junctor
from junctor import config, errors, http_errors, urls
from junctor.config import ConfigFile
from junctor.records import Model, Provider
from junctor.request import content, filter_text, segment, trailing
from junctor.resources import access_awaited, access_blocking, awaited, blocking, gateway_awaited, gateway_blocking
from junctor.resources.kinds import changed_provider
from junctor.retries import RetryPolicy, retry_after

POLICY = RetryPolicy()
NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "headers", "wait"),
    [
        (500, {}, 0.5),
        (408, {}, 0.5),
        (409, {}, 0.5),
        (429, {"retry-after": "7"}, 7.0),
        (503, {"retry-after-ms": "20", "retry-after": "9"}, 0.02),
        (503, {"retry-after": "61"}, None),
        (409, {"x-should-retry": "false"}, None),
        (400, {"x-should-retry": "true"}, 0.5),
        (404, {}, None),
        (302, {}, None),
    ],
)
def test_an_answer_is_retried_by_its_status_and_advice(
    status: int, headers: dict[str, str], wait: float | None
) -> None:
    assert POLICY.after_answer(0, status, headers, 0.0) == wait


def test_retries_end_and_waits_grow_with_jitter() -> None:
    assert POLICY.after_answer(1, 500, {}, 0.0) == 1.0
    assert POLICY.after_answer(1, 500, {}, 1.0) == 0.75
    assert POLICY.after_answer(2, 500, {}, 0.0) is None
    assert POLICY.pause(30, 0.0) == 8.0


def test_a_post_that_may_have_arrived_is_not_sent_again() -> None:
    assert POLICY.after_failure(0, "POST", 0.0, sent=True) is None
    assert POLICY.after_failure(0, "POST", 0.0, sent=False) == 0.5
    assert POLICY.after_failure(0, "GET", 0.0, sent=True) == 0.5


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2", 2.0),
        ("Sun, 22 Nov 2026 12:00:05 GMT", 5.0),
        ("Sun, 22 Nov 2026 11:00:05 GMT", 0.0),
        ("-1", None),
        ("nan", None),
        ("soon", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_date(value: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": value}, NOW) == seconds


@pytest.mark.parametrize(
    ("status", "body", "headers", "cls"),
    [
        (404, {"detail": "d", "error": {"code": "model_not_found"}}, {}, errors.NoRoute),
        (409, {"error": {"code": "stale_version"}}, {}, errors.StaleVersion),
        (409, {"detail": "d"}, {}, errors.ResourceExists),
        (422, {"detail": [{"loc": ["body", "name"], "msg": "bad"}]}, {}, errors.InvalidField),
        (429, {"error": {"code": "rate_limited"}}, {"x-junctor-error-source": "provider"}, errors.UpstreamRejected),
        (400, {"error": {"code": "internal"}}, {"x-junctor-error-source": "provider"}, errors.UpstreamRejected),
        (418, {}, {}, errors.MalformedRequest),
        (599, {}, {}, errors.InternalError),
        (302, {}, {}, errors.MalformedRequest),
    ],
)
def test_an_answer_becomes_the_error_of_its_reason_else_of_its_status(
    status: int, body: Any, headers: dict[str, str], cls: type[errors.JunctorError]
) -> None:
    error = http_errors.from_answer(status, headers, json.dumps(body).encode(), "abc")
    assert type(error) is cls
    assert error.metadata == {"status": str(status), "request_id": "abc"}


def test_a_status_in_words_gives_way_to_what_says_more() -> None:
    body = {"detail": "Forbidden", "error": {"message": "This needs the role Editor in workspace 'lab'"}}
    assert str(http_errors.from_answer(403, {}, json.dumps(body).encode(), "")).startswith("This needs the role Editor")


def test_an_error_has_fields_provider_wait_and_the_servers_request_id() -> None:
    body = {"detail": [{"loc": ["body", "routing", "targets", 0], "msg": "bad"}, "odd"]}
    headers = {"x-request-id": "srv", "retry-after": "3"}
    error = http_errors.from_answer(422, headers, json.dumps(body).encode(), "own")
    assert [(v.field, v.rule) for v in error.violations] == [("routing.targets.0", "bad"), ("", "odd")]
    assert (error.metadata["request_id"], error.retry_after) == ("srv", 3.0)
    by_provider = {"x-junctor-error-source": "provider", "x-junctor-provider": "default/up"}
    assert http_errors.from_answer(400, by_provider, b"<html>", "").domain == "provider/default/up"


def test_filters_and_bodies_become_json() -> None:
    assert filter_text('name:"x"') == 'name:"x"'
    assert filter_text({"created_at": {"$gte": NOW}}) == '{"created_at": {"$gte": "2026-11-22T12:00:00+00:00"}}'
    assert content({"a": ("ö",)}) == '{"a":["ö"]}'.encode()
    assert content(b"as is") == b"as is"
    with pytest.raises(TypeError, match="object cannot be sent as JSON"):
        content({"a": object()})


@pytest.mark.parametrize("text", ["", ".", ".."])
def test_a_path_segment_cannot_lead_elsewhere(text: str) -> None:
    with pytest.raises(errors.InvalidField):
        segment(text)


def test_paths_are_escaped() -> None:
    assert segment("a/b?c") == "a%2Fb%3Fc"
    assert trailing("/v1/models/meta%2Fx y?z") == "v1/models/meta%2Fx%20y%3Fz"


def test_records_read_times_nested_objects_and_keep_what_they_do_not_know() -> None:
    read = Provider.read(
        {
            "name": "p",
            "created_at": "2026-11-22T12:00:00",
            "served_models": [{"model_entity_id": "default/m", "served_model_name": "m"}],
            "enabled_models": [],
            "status": None,
            "new_field": 7,
        }
    )
    assert read.created_at == NOW
    assert read.served_models[0].model_entity_id == "default/m"
    assert (read.enabled_models, read.status, read.raw["new_field"]) == ((), "UNKNOWN", 7)
    assert "new_field" not in repr(read)


@pytest.mark.parametrize("data", [[], "x", None, {"name": "m", "created_at": "never"}, {"model_providers": 7}])
def test_an_answer_that_is_no_record_is_an_error(data: Any) -> None:
    with pytest.raises(errors.InternalError, match="server's answer"):
        Model.read(data)


def test_changing_a_provider_repeats_what_it_has_and_insists_on_its_version() -> None:
    provider = Provider.read(
        {"name": "p", "host_url": "http://h", "api_key_secret_name": "s", "status": "READY", "resource_version": "9"}
    )
    assert changed_provider(provider, {"admin_state": "DISABLED"}) == {
        "host_url": "http://h",
        "api_key_secret_name": "s",
        "resource_version": "9",
        "admin_state": "DISABLED",
    }


def test_settings_come_from_argument_environment_file_default_in_this_order(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "config.toml"
    saved = ConfigFile("lab").with_values("lab", {"workspace": "filed", "access_token": 't"\\ö\x7f', "base_url": ""})
    config.save(file, saved)
    environment = {"JUNCTOR_CONFIG_FILE": str(file), "JUNCTOR_WORKSPACE": "env", "JUNCTOR_BASE_URL": "http://[::1]:1/"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = config.resolve(environment, base_url=None)
    assert (found.base_url, found.workspace, found.access_token) == ("http://[::1]:1", "env", 't"\\ö\x7f')
    assert found.grpc_target == "[::1]:50051"
    assert found.sources["access_token"] == "context lab"
    assert config.resolve(environment, workspace="flag").workspace == "flag"
    assert config.resolve({"HOME": str(tmp_path)}).base_url == "http://localhost:8080"
    assert found.access_token not in repr(found)


@pytest.mark.parametrize("text", ["current = ", "contexts = 3", "[contexts]\nx = 1"])
def test_a_broken_config_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(errors.MalformedRequest, match=f"cannot read {file}"):
        config.load(file)


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://x", "http://", "http://x:y", "http://[::1"])
def test_a_base_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(errors.InvalidField, match="must look like"):
        urls.checked(url)


TWINS = [
    (getattr(blocking, name), getattr(awaited, f"Async{name}"))
    for name in ("Workspaces", "Secrets", "Models", "Providers", "VirtualModels", "ServedModels")
] + [
    (gateway_blocking.NamedRoute, gateway_awaited.AsyncNamedRoute),
    (gateway_blocking.OpenAiRoute, gateway_awaited.AsyncOpenAiRoute),
    (junctor.Client, junctor.AsyncClient),
    (access_blocking.Keys, access_awaited.AsyncKeys),
    (access_blocking.Members, access_awaited.AsyncMembers),
    (access_blocking.Audit, access_awaited.AsyncAudit),
]


@pytest.mark.parametrize(("sync", "twin"), TWINS, ids=lambda cls: cls.__name__)
def test_twins_have_the_same_methods_with_the_same_parameters(sync: type, twin: type) -> None:
    assert _methods(sync) == _methods(twin)


def _methods(cls: type) -> dict[str, list[tuple[str, Any]]]:
    found = {name: value for name, value in inspect.getmembers(cls, inspect.isfunction) if not name.startswith("_")}
    return {
        name: [(p.name, p.default) for p in inspect.signature(value).parameters.values()]
        for name, value in found.items()
    }


def test_every_public_name_can_be_imported_and_nothing_else() -> None:
    assert all(getattr(junctor, name).__name__ == name for name in junctor.__all__)
    with pytest.raises(AttributeError):
        _ = junctor.Nothing


def test_importing_junctor_imports_no_http_nor_rpc() -> None:
    code = "import sys, junctor; print([m for m in ('httpx', 'grpc', 'google', 'dataclasses') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


USER_PROGRAM = """
from collections.abc import Iterator
from datetime import datetime
from junctor import AsyncClient, Client, JunctorError, Page, Provider
from junctor.v1 import inference_pb2 as pb

def names(client: Client) -> list[str]:
    return [model.name for model in client.models.list(filter={"name": {"$like": "x"}}, sort="-name")]

def made(client: Client) -> datetime | None:
    provider: Provider = client.inference.providers.create("p", "http://h", description="d", enabled_models=["m"])
    return provider.created_at

def words(client: Client) -> Iterator[str]:
    with client.inference.gateway.openai.stream("v1/chat/completions", body={"model": "m"}) as stream:
        for chunk in stream:
            yield chunk["choices"][0]["delta"]["content"]

def typed(client: Client) -> str:
    answer: pb.ChatCompletionResponse = client.grpc.create_chat_completion(pb.ChatCompletionRequest(model="m"))
    return answer.id

async def main() -> int:
    async with AsyncClient("http://h", workspace="w") as client:
        page: Page[Provider] = await client.inference.providers.list().page(2)
        async for secret in client.secrets.list():
            print(secret.name)
        try:
            await client.virtual_models.update("v", default_model_entity="w/m")
        except JunctorError as error:
            print(error.reason, error.status, error.request_id)
        return page.total_results
"""


def test_a_users_program_is_clean_under_mypy_strict_and_a_wrong_one_is_not(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text(USER_PROGRAM)
    bad.write_text("from junctor import Client\nClient().models.create('m', descriptoin='d')\nClient().models.get(1)\n")
    assert _mypy(tmp_path, good) == ""
    complaints = _mypy(tmp_path, bad)
    assert 'Unexpected keyword argument "descriptoin"' in complaints
    assert "[arg-type]" in complaints


def _mypy(folder: Path, file: Path) -> str:
    root = Path(__file__).parents[2]
    cache = root / ".mypy_cache"
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file", "/dev/null"]
    done = subprocess.run(
        [*command, "--cache-dir", str(cache / "user"), str(file)], capture_output=True, text=True, cwd=root, check=False
    )
    return "\n".join(
        line for line in done.stdout.splitlines() if f"{file.name}:" in line
    )  # a cached message has an older folder
