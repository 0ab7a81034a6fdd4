"""Which paths are inference, and for whom."""

from __future__ import annotations

import pytest

from gateway_http.paths import is_anthropic, match
from junctor.errors import InvalidField
from junctor.names import NAME_RULE
from services.runtime.exchange import Call, Route

GATEWAY = "/apis/inference-gateway/v2/workspaces/"

TAKEN = {
    GATEWAY + "w1/openai/-/v1/chat/completions": (Route.OPENAI, "w1", "", "v1/chat/completions"),
    GATEWAY + "w1/openai/-/v1%2Fchat%2Fcompletions": (Route.OPENAI, "w1", "", "v1%2Fchat%2Fcompletions"),
    GATEWAY + "w1/openai/-/v1%2fembeddings": (Route.OPENAI, "w1", "", "v1%2fembeddings"),
    GATEWAY + "w1/openai/-/": (Route.OPENAI, "w1", "", ""),
    GATEWAY + "w1/openai/-/v1/modelsx": (Route.OPENAI, "w1", "", "v1/modelsx"),
    GATEWAY + "w1/openai/-/a/-/b": (Route.OPENAI, "w1", "", "a/-/b"),
    GATEWAY + "w1/openai/-/../../x": (Route.OPENAI, "w1", "", "../../x"),
    GATEWAY + "w1/model/m1/-/v1/chat/completions": (Route.MODEL, "w1", "m1", "v1/chat/completions"),
    GATEWAY + "w1/model/m1/-/v1/models": (Route.MODEL, "w1", "m1", "v1/models"),
    GATEWAY + "w1/model/m%401/-/x": (Route.MODEL, "w1", "m@1", "x"),
    GATEWAY + "w1/model/m+1.2_x/-/x": (Route.MODEL, "w1", "m+1.2_x", "x"),
    GATEWAY + "w1/model/ready/-/": (Route.MODEL, "w1", "ready", ""),
    GATEWAY + "w1/provider/p1/-/v1%2Fmodels": (Route.PROVIDER, "w1", "p1", "v1%2Fmodels"),
    GATEWAY + "w1/provider/p1/-/ready": (Route.PROVIDER, "w1", "p1", "ready"),
    GATEWAY + "w1/provider/p1/-/a//b/-/c": (Route.PROVIDER, "w1", "p1", "a//b/-/c"),
    "/v1/chat/completions": (Route.PLAIN, "home", "", "v1/chat/completions"),
    "/v1/chat%2Fcompletions": (Route.PLAIN, "home", "", "v1/chat%2Fcompletions"),
    "/v1/completions": (Route.PLAIN, "home", "", "v1/completions"),
    "/v1/embeddings": (Route.PLAIN, "home", "", "v1/embeddings"),
    "/v1/responses": (Route.PLAIN, "home", "", "v1/responses"),
    "/v1/responses/resp_1/cancel": (Route.PLAIN, "home", "", "v1/responses/resp_1/cancel"),
    "/v1/messages": (Route.PLAIN, "home", "", "v1/messages"),
    "/v1/messages/count_tokens": (Route.PLAIN, "home", "", "v1/messages/count_tokens"),
    "/v1/images/generations": (Route.PLAIN, "home", "", "v1/images/generations"),
    "/v1/audio/transcriptions": (Route.PLAIN, "home", "", "v1/audio/transcriptions"),
}


@pytest.mark.parametrize(("path", "expected"), TAKEN.items(), ids=TAKEN)
def test_inference_path(path: str, expected: tuple[Route, str, str, str]) -> None:
    call = match(b"POST", path.encode(), "home")
    assert call == Call(*expected[:3], "POST", expected[3].encode())


LEFT = [
    "/",
    "/health/ready",
    "/v1",
    "/v1/",
    "/v1/health/ready",
    "/v1/models",
    "/v1/models/w/m",
    "/v1/chat",
    "/v1/chat/completions/",
    "/v1/messages/batches",
    "/v1/images",
    "/v1/audio/",
    "/v2/chat/completions",
    "/apis/models/v2/workspaces/w1/models",
    GATEWAY + "w1",
    GATEWAY + "w1/virtual-models",
    GATEWAY + "w1/openai",
    GATEWAY + "w1/openai/-",
    GATEWAY + "w1/openai/v1/chat/completions",
    GATEWAY + "w1/model/m1",
    GATEWAY + "w1/model/m1/-",
    GATEWAY + "w1/model/a/b/-/x",
    GATEWAY + "w1/provider/p1/ready",
    GATEWAY + "w1/other/p1/-/x",
]


@pytest.mark.parametrize("path", LEFT)
def test_other_path_is_left_to_the_app(path: str) -> None:
    assert match(b"GET", path.encode(), "home") is None
    assert match(b"POST", path.encode(), "home") is None


@pytest.mark.parametrize(
    "tail", ["v1/models", "v1%2Fmodels", "v1%2fmodels", "v1/models/m1", "v1%2Fmodels%2Fw1%2Fm1", "v1/models/"]
)
def test_model_list_is_the_apps_only_when_it_is_read(tail: str) -> None:
    path = (GATEWAY + "w1/openai/-/" + tail).encode()
    assert match(b"GET", path, "home") is None
    assert match(b"POST", path, "home") is not None


BAD = {
    GATEWAY + "Bad/openai/-/x": "workspace",
    GATEWAY + "w/openai/-/x": "workspace",
    GATEWAY + "/openai/-/x": "workspace",
    GATEWAY + "w1%0A/openai/-/x": "workspace",
    GATEWAY + "a%2Fb/model/m1/-/x": "workspace",
    GATEWAY + "-/model/m1/-/x": "workspace",
    GATEWAY + "w1/model/M/-/x": "name",
    GATEWAY + "w1/model//-/x": "name",
    GATEWAY + "w1/model/a%2Fb/-/x": "name",
    GATEWAY + "w1/provider/a--b/-/x": "name",
    GATEWAY + "w1/provider/%ff%fe/-/x": "name",
    GATEWAY + "w1/provider/..%2f/-/x": "name",
    GATEWAY + "w1/provider/" + "a" * 64 + "/-/x": "name",
}


@pytest.mark.parametrize(("path", "field"), BAD.items(), ids=BAD)
def test_name_that_breaks_the_rule_is_an_invalid_field(path: str, field: str) -> None:
    with pytest.raises(InvalidField) as raised:
        match(b"POST", path.encode(), "home")
    assert raised.value.message == f"Invalid {field}: {NAME_RULE}"
    assert [v.field for v in raised.value.violations] == [field]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/messages", True),
        ("/v1/messages/count_tokens", True),
        (GATEWAY + "w1/openai/-/v1%2Fmessages", True),
        (GATEWAY + "w1/provider/p1/-/v1/messages", True),
        ("/v1/chat/completions", False),
        (GATEWAY + "w1/openai/-/v1/threads/t/messages", False),
    ],
)
def test_anthropic_path(path: str, expected: bool) -> None:
    call = match(b"POST", path.encode(), "home")
    assert call is not None
    assert is_anthropic(call) is expected
