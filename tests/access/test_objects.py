"""One caller after what is another's: every id in a path, body, query or frame that can name what is not theirs."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from junctor.v1 import access_pb2, access_pb2_grpc, inference_router_pb2, model_registry_pb2, model_registry_pb2_grpc
from junctor.v1.inference_router_pb2_grpc import InferenceRouterStub
from tests.doors import KEYS, MODELS, Doors
from tests.upstream import ScriptedUpstream

pytestmark = pytest.mark.parametrize("guarded", ["direct"], indirect=True)

CHAT = "/v1/chat/completions"
HIDDEN, ABSENT = "hidden", "absent"
GATEWAY = "/apis/inference-gateway/v2/workspaces"
MEMBERS = "/apis/entities/v2/workspaces/{}/members"
CANARY = "canary-of-the-hidden-workspace"
UPSTREAM_MODEL = "test-model"


def chat(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}]}


def renamed(text: str) -> str:
    return text.replace(HIDDEN, ABSENT)


async def filled(guarded: Doors, upstream: ScriptedUpstream) -> None:
    """Make a workspace with one of everything, each of which has a word that no answer to a stranger may have."""
    await guarded.workspace(HIDDEN)
    for path, body in (
        (f"{MODELS}/{HIDDEN}/models", {"name": "secret-model", "description": CANARY}),
        (
            f"/apis/inference-gateway/v2/workspaces/{HIDDEN}/virtual-models",
            {"name": "secret-vm", "default_model_entity": f"{HIDDEN}/{UPSTREAM_MODEL}"},
        ),
        (f"/apis/secrets/v2/workspaces/{HIDDEN}/secrets", {"name": "secret-secret", "value": CANARY}),
        (MEMBERS.format(HIDDEN), {"principal": f"{CANARY}@example.com", "roles": ["Admin"]}),
        (KEYS, {"role": "Viewer", "workspace": HIDDEN, "description": CANARY}),
    ):
        made = await guarded.call("POST", path, guarded.admin, json=body)
        assert made.status_code in (200, 201), (path, made.text)
    await guarded.provider("secret-provider", upstream.url, workspace=HIDDEN, description=CANARY)


QUERIES = [
    ("GET", f"{MODELS}/-/models?page_size=1000", None),
    ("GET", f"{MODELS}/default/models?filter[workspace]={HIDDEN}", None),
    ("GET", f"{MODELS}/-/models?filter[workspace]={HIDDEN}", None),
    ("GET", f"{MODELS}/-/models?filter[name]=secret-model&sort=-created_at", None),
    ("GET", f"{MODELS}/-/providers?filter[host_url][$like]=http", None),
    ("GET", f"{MODELS}/{HIDDEN}/models", None),
    ("GET", f"{MODELS}/{HIDDEN}/models/secret-model", None),
    ("GET", f"{MODELS}/{HIDDEN}/providers/secret-provider", None),
    ("DELETE", f"{MODELS}/{HIDDEN}/models/secret-model", None),
    ("GET", f"/apis/secrets/v2/workspaces/{HIDDEN}/secrets", None),
    ("GET", "/apis/secrets/v2/workspaces/-/secrets", None),
    ("GET", MEMBERS.format(HIDDEN), None),
    ("GET", MEMBERS.format("-"), None),
    ("PUT", MEMBERS.format(HIDDEN) + "/me", {"roles": ["Admin"]}),
    ("POST", MEMBERS.format(HIDDEN), {"principal": "me", "roles": ["Viewer"]}),
    ("GET", f"{KEYS}?workspace={HIDDEN}", None),
    ("GET", f"{KEYS}?page_size=1000", None),
    ("GET", f"{KEYS}?filter[description]={CANARY}", None),
    ("POST", KEYS, {"role": "Viewer", "workspace": HIDDEN}),
    ("GET", f"/apis/auth/v2/audit?workspace={HIDDEN}", None),
    ("GET", "/apis/auth/v2/audit?page_size=1000", None),
    ("GET", "/apis/entities/v2/workspaces?page_size=1000", None),
    ("GET", f"/apis/entities/v2/workspaces/{HIDDEN}", None),
    ("GET", "/v1/models", None),
    ("GET", f"/v1/models/{HIDDEN}/{UPSTREAM_MODEL}", None),
    ("GET", f"{GATEWAY}/{HIDDEN}/openai/-/v1/models", None),
    ("GET", f"{GATEWAY}/default/openai/-/v1/models/{HIDDEN}/{UPSTREAM_MODEL}", None),
    ("GET", f"{GATEWAY}/{HIDDEN}/provider/secret-provider/ready", None),
    ("GET", f"{GATEWAY}/{HIDDEN}/provider/secret-provider/-/v1/models", None),
    ("POST", f"{GATEWAY}/{HIDDEN}/provider/secret-provider/-/v1/chat/completions", chat(UPSTREAM_MODEL)),
    ("POST", f"{GATEWAY}/{HIDDEN}/model/{UPSTREAM_MODEL}/-/v1/chat/completions", chat(UPSTREAM_MODEL)),
    ("POST", f"{GATEWAY}/{HIDDEN}/openai/-/v1/chat/completions", chat(UPSTREAM_MODEL)),
    ("POST", f"{GATEWAY}/default/openai/-/v1/chat/completions", chat(f"{HIDDEN}/{UPSTREAM_MODEL}")),
    ("POST", CHAT, chat(f"{HIDDEN}/{UPSTREAM_MODEL}")),
    ("POST", CHAT, chat(f"{HIDDEN}/secret-vm")),
]
"""As an Admin of ``default`` who has nothing to do with the hidden workspace."""


async def test_nothing_of_another_workspace_is_told(guarded: Doors, upstream: ScriptedUpstream) -> None:
    await filled(guarded, upstream)
    stranger = await guarded.key("Admin")
    before = len([each for each in upstream.requests if each.method == "POST"])
    for method, path, body in QUERIES:
        answers = []
        for workspace in (HIDDEN, ABSENT):
            there = path.replace(HIDDEN, workspace)
            more = {} if body is None else {"json": _renamed_body(body, workspace)}
            answers.append(await guarded.call(method, there, stranger, **more))
        hidden, absent = answers
        assert hidden.status_code == absent.status_code, (path, hidden.text, absent.text)
        assert hidden.status_code < 500, (path, hidden.text)
        assert CANARY not in hidden.text, (path, hidden.text)
        if hidden.status_code >= 400:
            assert renamed(hidden.text) == absent.text, path
        else:
            assert "secret-" not in hidden.text, (path, hidden.text)
    assert len([each for each in upstream.requests if each.method == "POST"]) == before


def _renamed_body(body: Any, workspace: str) -> Any:
    if isinstance(body, dict):
        return {name: _renamed_body(value, workspace) for name, value in body.items()}
    return body.replace(HIDDEN, workspace) if isinstance(body, str) else body


FOREIGN_REFERENCES = [
    {"default_model_entity": f"{HIDDEN}/{UPSTREAM_MODEL}"},
    {"routing": {"targets": [{"model": f"{HIDDEN}/{UPSTREAM_MODEL}"}]}},
    {"routing": {"targets": [{"provider": f"{HIDDEN}/secret-provider", "upstream_id": UPSTREAM_MODEL}]}},
]


async def test_no_reference_leads_into_another_workspace(guarded: Doors, upstream: ScriptedUpstream) -> None:
    await filled(guarded, upstream)
    stranger = await guarded.key("Admin")
    virtual = f"{GATEWAY}/default/virtual-models"
    assert (await guarded.call("POST", virtual, stranger, json={"name": "mine"})).status_code == 201
    for number, fields in enumerate(FOREIGN_REFERENCES):
        created = await guarded.call("POST", virtual, stranger, json={"name": f"way-{number}", **fields})
        assert created.status_code in (403, 404, 422), (fields, created.text)
        updated = await guarded.call("PATCH", f"{virtual}/mine", stranger, json=fields)
        assert updated.status_code >= 400, (fields, updated.text)
    answer = await guarded.call("POST", CHAT, stranger, json=chat("default/mine"))
    assert answer.status_code == 404


async def test_a_key_for_certain_models_makes_no_way_to_others(guarded: Doors, upstream: ScriptedUpstream) -> None:
    await guarded.provider("scripted", upstream.url)
    key = await guarded.key("Editor", models=["free-*"])
    virtual = f"{GATEWAY}/default/virtual-models"
    assert (await guarded.call("POST", virtual, key, json={"name": "free-own"})).status_code == 201
    for number, fields in enumerate(
        (
            {"default_model_entity": f"default/{UPSTREAM_MODEL}"},
            {"default_model_entity": UPSTREAM_MODEL},
            {"routing": {"targets": [{"model": f"default/{UPSTREAM_MODEL}"}]}},
            {"routing": {"targets": [{"provider": "default/scripted", "upstream_id": UPSTREAM_MODEL}]}},
            {"routing": {"targets": [{"model": "default/free-own"}], "fallbacks": [UPSTREAM_MODEL]}},
        )
    ):
        made = await guarded.call("POST", virtual, key, json={"name": f"free-{number}", **fields})
        assert made.status_code in (403, 422), (fields, made.text)
        assert (await guarded.call("POST", CHAT, key, json=chat(f"default/free-{number}"))).status_code != 200


SET_BY_THE_SERVER = {
    "id": "model-mine",
    "created_by": "key:somebody",
    "updated_by": "key:somebody",
    "created_at": "2000-01-01T00:00:00Z",
    "resource_version": "7",
    "workspace": HIDDEN,
    "autoprovisioned": True,
}


async def test_what_the_server_sets_is_not_taken_from_callers(guarded: Doors) -> None:
    await guarded.workspace(HIDDEN)
    admin = await guarded.key("Admin")
    for path in (f"{MODELS}/default/models", f"{GATEWAY}/default/virtual-models"):
        made = await guarded.call("POST", path, admin, json={"name": "mine", **SET_BY_THE_SERVER})
        if made.status_code == 422:
            continue
        assert made.status_code == 201, made.text
        for name, value in SET_BY_THE_SERVER.items():
            assert made.json().get(name) != value, (path, name)
    bad = {"prefix": "jnct_AAAAAA", "revoked_at": "2000-01-01T00:00:00Z", "created_by": "x", "id": "key-bootstrap"}
    made = await guarded.call("POST", KEYS, admin, json={"role": "Viewer", "workspace": "default", **bad})
    assert made.status_code == 422 or not bad.items() & (made.json() | made.json().get("key", {})).items(), made.text
    body = {"principal": "jane", "roles": ["Viewer"], "granted_by": "x", "workspace": HIDDEN}
    made = await guarded.call("POST", MEMBERS.format("default"), admin, json=body)
    assert made.status_code >= 400 or made.json().get("granted_by") != "x"
    assert (await guarded.call("GET", MEMBERS.format(HIDDEN), guarded.admin)).json()["data"] == []


async def test_another_callers_request_id_finds_nothing(guarded: Doors) -> None:
    stub = model_registry_pb2_grpc.ModelRegistryStub(guarded.cluster.channel)
    request = model_registry_pb2.CreateModelRequest(request_id="same")
    request.model.workspace, request.model.name = "default", "mine"
    one, two = (
        (("authorization", f"Bearer {await guarded.key('Editor')}"),),
        (("authorization", f"Bearer {await guarded.key('Editor')}"),),
    )
    first = await stub.CreateModel(request, metadata=one)
    assert (await stub.CreateModel(request, metadata=one)).id == first.id
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.CreateModel(request, metadata=two)
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    request.model.name = "other"
    assert (await stub.CreateModel(request, metadata=two)).name == "other"


async def test_no_frame_says_who_calls(guarded: Doors, upstream: ScriptedUpstream) -> None:
    await filled(guarded, upstream)
    key = await guarded.key("Viewer")
    metadata = (("authorization", f"Bearer {key}"), ("x-junctor-caller", "AAAA"))
    access = guarded.cluster.node._access
    assert access is not None
    admin = await access.authenticator.prove(guarded.admin)
    request = inference_router_pb2.InvokeRequest(
        method="POST", path=b"v1/chat/completions", caller=access.assertions.write(admin)
    )
    request.plain.workspace = "default"
    request.body = b'{"model":"hidden/test-model","messages":[]}'
    stub = InferenceRouterStub(guarded.cluster.channel)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Invoke(request, metadata=metadata).read()
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    many = stub.InvokeMany(metadata=metadata)
    frames = inference_router_pb2.InvokeManyRequest()
    frames.frames.add(call=1).request.CopyFrom(request)
    await many.write(frames)
    await many.done_writing()
    answers = [answer async for answer in many]
    assert not any(frame.response.HasField("head") for answer in answers for frame in answer.frames)


async def test_a_refusal_names_request_and_workspace(guarded: Doors) -> None:
    viewer = await guarded.key("Viewer")
    shown = {"x-request-id": "refused-1"}
    for path, status in ((CHAT, 401), ("/nowhere", 401)):
        answer = await guarded.call("POST", path, "nobody's", headers=shown, json={})
        assert (answer.status_code, answer.headers["x-request-id"]) == (status, "refused-1")
    answer = await guarded.call("POST", f"{MODELS}/default/models", viewer, headers=shown, json={"name": "mine"})
    assert answer.status_code == 403
    assert guarded.cluster.node._access is not None
    await guarded.cluster.node._access.reporter.ship()
    audit = access_pb2_grpc.AuditStub(guarded.cluster.channel)
    metadata = (("authorization", f"Bearer {guarded.admin}"),)
    told = await audit.ListAuditEvents(access_pb2.ListAuditEventsRequest(page_size=1000), metadata=metadata)
    refused = [each for each in told.events if each.action == access_pb2.AUDIT_ACTION_REFUSED]
    assert {each.request_id for each in refused} == {"refused-1"}
    assert sorted((each.reason, each.workspace) for each in refused) == [
        ("PERMISSION_DENIED", "default"), ("UNAUTHENTICATED", ""), ("UNAUTHENTICATED", ""),
    ]  # fmt: skip
