"""What may not be written, by REST and by gRPC alike: each rule by itself, and every bad field at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway_http.resources import MODEL, PROVIDER, VIRTUAL_MODEL, WORKSPACE, Resource
from gateway_http.stubs import Service, Stubs
from gateway_http.translate import Reader
from junctor.errors import InvalidArgument, InvalidField, JunctorError, MalformedRequest
from junctor.v1 import model_registry_pb2, provider_registry_pb2, secrets_pb2, virtual_models_pb2, workspaces_pb2
from tests.registry_stack import both_surfaces

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATHS = {
    "workspace": "/apis/entities/v2/workspaces",
    "secret": "/apis/secrets/v2/workspaces/default/secrets",
    "model": "/apis/models/v2/workspaces/default/models",
    "provider": "/apis/models/v2/workspaces/default/providers",
    "virtual": "/apis/inference-gateway/v2/workspaces/default/virtual-models",
}
GOOD: dict[str, dict[str, Any]] = {
    "workspace": {"name": "good"},
    "secret": {"name": "good", "value": "v"},
    "model": {"name": "good"},
    "provider": {"name": "good", "host_url": "http://127.0.0.1:9"},
    "virtual": {"name": "good"},
}


@dataclass(frozen=True)
class Door:
    """Both ways in."""

    http: httpx.AsyncClient
    stubs: Stubs

    async def rest(self, kind: str, body: dict[str, Any]) -> tuple[int, list[str]]:
        """Return the status and the first step of each location of a refusal."""
        response = await self.http.post(PATHS[kind], json=body)
        detail = response.json().get("detail")
        if not isinstance(detail, list):
            return response.status_code, [str(detail)]
        assert all(entry["loc"][0] == "body" and entry["msg"] and entry["type"] for entry in detail)
        return response.status_code, _unique(entry["loc"][1] for entry in detail)

    async def grpc(self, kind: str, body: dict[str, Any]) -> JunctorError:
        """Return the error of the same write over gRPC."""
        with pytest.raises(JunctorError) as raised:
            await self._create(kind, body)
        return raised.value

    async def _create(self, kind: str, body: dict[str, Any]) -> Any:
        if kind == "secret":
            secret = secrets_pb2.Secret(workspace="default", name=body["name"], description=body.get("description"))
            request = secrets_pb2.CreateSecretRequest(secret=secret, value=body["value"])
            return await _call(self.stubs.secrets, "CreateSecret", request)
        if kind == "workspace":
            made: Any = _message(WORKSPACE, body)
            return await _call(
                self.stubs.workspaces, "CreateWorkspace", workspaces_pb2.CreateWorkspaceRequest(workspace=made)
            )
        if kind == "model":
            made = _message(MODEL, body)
            return await _call(self.stubs.models, "CreateModel", model_registry_pb2.CreateModelRequest(model=made))
        if kind == "provider":
            made = _message(PROVIDER, body)
            return await _call(
                self.stubs.providers, "CreateProvider", provider_registry_pb2.CreateProviderRequest(provider=made)
            )
        made = _message(VIRTUAL_MODEL, body)
        return await _call(
            self.stubs.virtual_models,
            "CreateVirtualModel",
            virtual_models_pb2.CreateVirtualModelRequest(virtual_model=made),
        )


async def _call(service: Service[Any], method: str, request: Any) -> Any:
    return await service.peer.call(getattr(service.stub, method), request)


_DIRECT = ("name", "description")


def _message(resource: Resource, body: dict[str, Any]) -> Any:
    reader = Reader(body)
    made: Any = reader.read(resource.message(), [key for key in resource.settable if key.name not in _DIRECT])
    reader.done()  # else it would leave out what is to be refused
    if hasattr(made, "workspace"):
        made.workspace = "default"
    made.name = body["name"]
    if "description" in body:
        made.description = body["description"]
    return made


def _unique(found: Any) -> list[str]:
    return list(dict.fromkeys(found))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with both_surfaces(tmp_path_factory.mktemp("door")) as (http, stubs):
        yield Door(http, stubs)


async def refused(door: Door, kind: str, fields: dict[str, Any], names: list[str]) -> None:
    """Both surfaces name exactly these fields."""
    body = GOOD[kind] | fields
    assert await door.rest(kind, body) == (422, names)
    error = await door.grpc(kind, body)
    assert isinstance(error, InvalidField)
    assert _unique(violation.field.partition(".")[0].partition("[")[0] for violation in error.violations) == names


HOSTS = {
    "empty": "",
    "relative": "/v1",
    "no scheme": "h:8000",
    "another scheme": "ftp://h",
    "2,049 characters": "http://h/" + "a" * 2040,
    "port 0": "http://h:0",
    "port 65536": "http://h:65536",
    "a port that is no number": "http://h:x",
    "user": "http://user@h",
    "user and password": "http://user:pass@h",
    "query": "http://h?a=b",
    "fragment": "http://h#f",
    "control character": "http://h/\x01",
    "line break": "http://h\r\n",
    "space": "http://h /",
    "metadata": "http://169.254.169.254",
    "link-local": "http://169.254.1.1",
    "decimal": "http://2852039166",
    "hex": "http://0xa9fea9fe",
    "octal": "http://0251.0376.0251.0376",
    "short": "http://169.254.43518",
    "IPv4-mapped": "http://[::ffff:169.254.169.254]",
    "EC2 over IPv6": "http://[fd00:ec2::254]",
    "IPv6 link-local": "http://[fe80::1]",
    "metadata name": "http://metadata.google.internal",
    "another metadata name": "http://instance-data",
    "an address in the labels": "http://169.254.169.254.nip.io",
    "an address in the labels, resolvable or not": "http://a.169-254-169-254.nowhere.invalid",
}


@pytest.mark.parametrize("url", HOSTS.values(), ids=HOSTS)
async def test_a_host_url(door: Door, url: str) -> None:
    await refused(door, "provider", {"host_url": url}, ["host_url"])


@pytest.mark.parametrize(
    "url", ["http://name-that-does-not-resolve.invalid", "http://h/" + "a" * 2039, "https://h:65535"]
)
async def test_a_host_url_that_is_taken_without_resolving_it(door: Door, url: str) -> None:
    response = await door.http.put(f"{PATHS['provider']}/taken", json={"host_url": url})
    assert (response.status_code, response.json()["host_url"]) == (200, url)


HEADERS: dict[str, dict[str, str]] = {
    name: {name: "x"}
    for name in (
        "Host",
        "content-length",
        "Transfer-Encoding",
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "Proxy-Authorization",
        "te",
        "trailer",
        "upgrade",
        "X-NMP-Principal",
        "x-junctor-hop",
        "no token",
        "colon:",
        "ünicode",
    )
} | {
    "line break in the value": {"x-a": "a\r\nb: c"},
    "control character in the value": {"x-a": "a\x07"},
    "no ASCII in the value": {"x-a": "ü"},
    "8,193 bytes": {"x-a": "a" * 8193},
    "65 headers": {f"x-{n}": "1" for n in range(65)},
}


@pytest.mark.parametrize("field", ["default_extra_headers", "required_extra_headers"])
@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS)
async def test_extra_headers(door: Door, field: str, headers: dict[str, str]) -> None:
    await refused(door, "provider", {field: headers}, [field])


@pytest.mark.parametrize("field", ["default_extra_headers", "required_extra_headers"])
async def test_extra_headers_up_to_the_limits_are_taken(door: Door, field: str) -> None:
    headers = {f"x-{n}": "v" * 8192 if n == 0 else "v" for n in range(64)}
    response = await door.http.put(f"{PATHS['provider']}/taken", json={"host_url": "http://h", field: headers})
    assert (response.status_code, response.json()[field]) == (200, headers)


@pytest.mark.parametrize("field", ["default_extra_headers", "required_extra_headers"])
@pytest.mark.parametrize("name", ["authorization", "Authorization", "COOKIE"])
async def test_a_credential_among_the_extra_headers_is_400(door: Door, field: str, name: str) -> None:
    body = GOOD["provider"] | {field: {name: "x"}}
    words = f"{name.capitalize()} header is not allowed in {field}. Use api_key_secret_name for authentication."
    assert await door.rest("provider", body) == (400, [words])
    error = await door.grpc("provider", body)
    assert (type(error), error.message) == (MalformedRequest, words)


FORMS = {
    "no variable": "x-api-key: secret",
    "two variables": "x-api-key: {{ auth_secret }}{{ auth_secret }}",
    "another variable": "x-api-key: {{ other }}",
    "an expression": "x-api-key: {{ auth_secret.__class__ }}",
    "a statement": "x-api-key: {% if 1 %}{{ auth_secret }}{% endif %}",
    "no header name": "{{ auth_secret }}",
    "line break": "x-a: a\r\nb: {{ auth_secret }}",
    "no token": "x a: {{ auth_secret }}",
    "8,193 characters": "x-a: " + "a" * 8192 + "{{ auth_secret }}",
} | {
    name: f"{name}: {{{{ auth_secret }}}}"
    for name in (
        "Cookie",
        "Host",
        "content-length",
        "transfer-encoding",
        "Connection",
        "keep-alive",
        "te",
        "upgrade",
        "proxy-connection",
        "Proxy-Authorization",
        "x-nmp-key",
        "X-Junctor-Key",
    )
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
async def test_the_form_of_the_credential(door: Door, form: str) -> None:
    await refused(door, "provider", {"auth_header_format": form}, ["auth_header_format"])


@pytest.mark.parametrize("name", ["Authorization", "x-api-key", "api-key"])
async def test_a_form_of_the_credential_that_is_taken(door: Door, name: str) -> None:
    form = f"{name}: Token {{{{ auth_secret }}}};x"
    body = {"host_url": "http://h", "auth_header_format": form}
    response = await door.http.put(f"{PATHS['provider']}/taken", json=body)
    assert (response.status_code, response.json()["auth_header_format"]) == (200, form)


VALUES = {
    "empty": "",
    "65,537 bytes": "x" * 65_537,
    "65,537 bytes in fewer characters": "é" * 32_769,
    "CR": "a\rb",
    "LF": "a\nb",
    "NUL": "a\0b",
    "tab": "a\tb",
    "bell": "a\x07b",
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
async def test_the_value_of_a_secret(door: Door, value: str) -> None:
    by_rest = await door.http.post(PATHS["secret"], json=GOOD["secret"] | {"value": value})
    assert by_rest.status_code == 422
    assert [entry["loc"] for entry in by_rest.json()["detail"]] == [["body", "value"]]
    assert not value or value[:2] not in by_rest.text
    error = await door.grpc("secret", GOOD["secret"] | {"value": value})
    assert [violation.field for violation in error.violations] == ["value"]


async def test_the_largest_value_of_a_secret_is_taken(door: Door) -> None:
    response = await door.http.post(PATHS["secret"], json={"name": "largest", "value": "x" * 65_536})
    assert response.status_code == 201


LARGE = {"a": "x" * (1 << 20)}
FREE = [
    ("model", "custom_fields"),
    ("model", "spec"),
    ("model", "ownership"),
    ("provider", "default_extra_body"),
    ("provider", "required_extra_body"),
]


@pytest.mark.parametrize(("kind", "field"), FREE)
async def test_a_json_object_is_at_most_a_mebibyte(door: Door, kind: str, field: str) -> None:
    await refused(door, kind, {field: LARGE}, [field])


NOT_JSON = {
    "an array": b"[]",
    "a number": b"1",
    "cut": b'{"a":',
    "no UTF-8": b'{"a":"\xff"}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "NaN": b'{"a":NaN}',
    "beyond a double": b'{"a":1e999}',
    "a lone surrogate": b'{"a":"\\ud800"}',
    "129 levels": b'{"a":' + b"[" * 128 + b"]" * 128 + b"}",
    "empty": b"",
}


@pytest.mark.parametrize("value", NOT_JSON.values(), ids=NOT_JSON)
@pytest.mark.parametrize(("kind", "field"), FREE)
async def test_a_json_object_is_one_that_rest_can_show(door: Door, kind: str, field: str, value: bytes) -> None:
    messages: dict[str, Any] = {"model": model_registry_pb2.Model, "provider": provider_registry_pb2.Provider}
    made = messages[kind](workspace="default", name="good", **{field: value})
    if kind == "provider":
        made.host_url = "http://h"
        request: Any = provider_registry_pb2.CreateProviderRequest(provider=made)
        call = _call(door.stubs.providers, "CreateProvider", request)
    else:
        call = _call(door.stubs.models, "CreateModel", model_registry_pb2.CreateModelRequest(model=made))
    with pytest.raises(InvalidField) as error:
        await call
    assert [violation.field for violation in error.value.violations] == [field]
    sent = b'{"name":"good","host_url":"http://h","' + field.encode() + b'":' + value + b"}"
    response = await door.http.post(PATHS[kind], content=sent)
    assert response.status_code == 422


NO_IDS = {"empty": "", "513 characters": "x" * 513, "NUL": "a\0b"}


@pytest.mark.parametrize("model", NO_IDS.values(), ids=NO_IDS)
@pytest.mark.parametrize("field", ["enabled_models", "static_models"])
async def test_what_is_no_id_of_a_providers_model(door: Door, field: str, model: str) -> None:
    assert await door.rest("provider", GOOD["provider"] | {field: ["good", model]}) == (422, [field])
    provider = provider_registry_pb2.Provider(workspace="default", name="good", host_url="http://h")
    getattr(provider, field).values.extend(["good", model])
    request = provider_registry_pb2.CreateProviderRequest(provider=provider)
    with pytest.raises(InvalidField) as error:
        await _call(door.stubs.providers, "CreateProvider", request)
    assert [violation.field for violation in error.value.violations] == [field]


@pytest.mark.parametrize("model", NO_IDS.values(), ids=NO_IDS)
async def test_what_is_no_id_of_a_target(door: Door, model: str) -> None:
    target = {"upstream": {"provider": "default/up", "upstream_id": model}}
    assert await door.rest("virtual", GOOD["virtual"] | {"routing": {"targets": [target]}}) == (422, ["routing"])
    virtual = virtual_models_pb2.VirtualModel(workspace="default", name="good")
    virtual.routing.targets.add().upstream.MergeFrom(
        virtual_models_pb2.UpstreamTarget(provider="default/up", upstream_id=model)
    )
    request = virtual_models_pb2.CreateVirtualModelRequest(virtual_model=virtual)
    with pytest.raises(InvalidField) as error:
        await _call(door.stubs.virtual_models, "CreateVirtualModel", request)
    assert [violation.field for violation in error.value.violations] == ["routing.targets[0].upstream.upstream_id"]


@pytest.mark.parametrize("model", NO_IDS.values(), ids=NO_IDS)
async def test_what_is_no_id_of_a_served_model(door: Door, model: str) -> None:
    await door.http.put(f"{PATHS['provider']}/served", json={"host_url": "http://h"})
    mapping = {"model_entity_id": "default/m1", "served_model_name": model}
    response = await door.http.put(f"{PATHS['provider']}/served/status", json={"served_models": [mapping]})
    assert response.status_code == 422
    (entry,) = response.json()["detail"]
    assert entry["loc"] == ["body", "served_models", 0, "served_model_name"]
    served = [provider_registry_pb2.ServedModelMapping(**mapping)]
    request = provider_registry_pb2.UpdateProviderStatusRequest(
        workspace="default", name="served", served_models=provider_registry_pb2.ServedModelList(values=served)
    )
    with pytest.raises(InvalidField) as error:
        await _call(door.stubs.providers, "UpdateProviderStatus", request)
    assert [violation.field for violation in error.value.violations] == ["served_models[0].served_model_name"]


NAMES = ["", "x", "Upper", "1st", "a--b", "ends-", "line\n", "sl/ash", "sp ace", "n" * 64, "ü-name"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", GOOD)
async def test_a_name_by_full_match(door: Door, kind: str, name: str) -> None:
    await refused(door, kind, {"name": name}, ["name"])


@pytest.mark.parametrize("kind", GOOD)
async def test_a_description_of_1001_characters(door: Door, kind: str) -> None:
    await refused(door, kind, {"description": "d" * 1001}, ["description"])


ALL_AT_ONCE: dict[str, dict[str, Any]] = {
    "workspace": {"name": "X", "description": "d" * 1001},
    "secret": {"name": "X", "description": "d" * 1001, "value": ""},
    "model": {"name": "X", "description": "d" * 1001, "custom_fields": LARGE, "model_providers": ["no slash"]},
    "provider": {
        "name": "X",
        "host_url": "nope",
        "description": "d" * 1001,
        "auth_header_format": "x",
        "default_extra_body": LARGE,
        "required_extra_headers": {"host": "h"},
        "models_path": "?",
        "timeouts": {"idle_ms": 0},
        "proxy": "nope",
    },
    "virtual": {"name": "X", "description": "d" * 1001, "default_model_entity": "no slash", "models": []},
}


@pytest.mark.parametrize("kind", ALL_AT_ONCE)
async def test_every_bad_field_is_named_at_once(door: Door, kind: str) -> None:
    body = GOOD[kind] | ALL_AT_ONCE[kind]
    wanted = set(ALL_AT_ONCE[kind]) - {"models"}
    status, named = await door.rest(kind, body)
    assert (status, set(named)) == (422, wanted)
    error = await door.grpc(kind, body)
    assert {violation.field.partition(".")[0].partition("[")[0] for violation in error.violations} == wanted


@pytest.mark.parametrize("kind", ALL_AT_ONCE)
async def test_a_value_of_the_wrong_type_hides_no_other_bad_field(door: Door, kind: str) -> None:
    body = GOOD[kind] | ALL_AT_ONCE[kind] | {"name": "a/b", "description": 7}
    status, named = await door.rest(kind, body)
    assert (status, set(named)) == (422, set(ALL_AT_ONCE[kind]) - {"models"})
    assert (await door.http.get(f"{PATHS[kind]}/good")).status_code == 404, "a refused body made something"


async def test_a_credential_among_the_extra_headers_hides_no_other_bad_field(door: Door) -> None:
    body = GOOD["provider"] | {"default_extra_headers": {"Cookie": "x", "host": "y"}, "host_url": "nope", "name": "X"}
    status, (text,) = await door.rest("provider", body)
    assert status == 400
    error = await door.grpc("provider", body)
    assert isinstance(error, InvalidArgument)
    for said in (text, error.message):
        assert said.startswith("Cookie header is not allowed in default_extra_headers. Use api_key_secret_name for")
        assert all(f"{field}: " in said for field in ("name", "host_url", "default_extra_headers.host"))
