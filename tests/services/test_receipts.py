"""Receipts: what an answer says of the decision behind it, and that the decision can be made again from it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from junctor.cli.app import build
from junctor.errors import InvalidField, JunctorError
from junctor.status import from_rpc_error
from junctor.v1 import inference_pb2 as typed
from junctor.v1 import route_pb2
from junctor.v1 import virtual_models_pb2 as vpb
from junctor.v1.inference_pb2_grpc import InferenceStub
from junctor.v1.receipt_pb2 import Receipt
from services.inference_router.receipts import pack, unpack
from services.inference_router.replaying import replay
from tests.cluster import running
from tests.router_bench import Recorder, benches, by_model, by_provider
from tests.upstream import Behaviour, Close, Hang, Json, Raw, Reset, ScriptedUpstream, Sse, Status

CHAT = "/v1/chat/completions"

STREAM = Sse([{"model": "vendor/m", "choices": []}])


async def receipt_of(*urls: str) -> Receipt:
    async with benches() as bench:
        bench.in_turn(*urls)
        sink = await bench.ask(by_model(want_receipt=True, request_id="req-1"))
        assert sink.outcome is not None
        return Receipt.FromString(sink.outcome.receipt)


async def test_a_receipt_has_the_decision_and_what_happened(upstream: ScriptedUpstream) -> None:
    upstream.script(Status(503), Json(200, {"model": "vendor/m"}))
    receipt = await receipt_of(upstream.url, upstream.url)
    assert (receipt.request_id, receipt.decision.policy) == ("req-1", "priority")
    assert [(each.provider, each.failure, each.status) for each in receipt.attempts] == [
        ("default/p0", "status", 503),
        ("default/p1", "", 200),
    ]
    again = replay(receipt)
    assert again.same
    assert again.order == (("default/p0", "vendor/m"), ("default/p1", "vendor/m"))


async def test_an_event_stream_carries_it_as_a_comment_before_its_end(upstream: ScriptedUpstream) -> None:
    upstream.always(STREAM)
    async with benches() as bench:
        bench.in_turn(upstream.url)
        plain, with_receipt = await bench.ask(by_model()), await bench.ask(by_model(want_receipt=True))
        added = with_receipt.body.removeprefix(plain.body)
        assert with_receipt.body.startswith(plain.body)
        assert added.startswith(b"\n: junctor-receipt ")
        assert replay(unpack(added.decode())).same


async def test_another_answer_carries_it_as_a_field(upstream: ScriptedUpstream) -> None:
    upstream.always(Json(200, {"model": "vendor/m"}, [("x-junctor-receipt", "the provider's own")]))
    async with benches() as bench:
        bench.in_turn(upstream.url)
        sink = await bench.ask(by_model(want_receipt=True))
        [field] = [value for name, value in sink.got.headers if name == b"x-junctor-receipt"]  # type: ignore[union-attr]
        assert unpack(field.decode()).decision.virtual_model == "default/chat"


LAST: dict[str, tuple[Behaviour, list[tuple[int, str]]]] = {
    "an answer": (Json(200, {}), [(503, "status"), (200, "")]),
    "an error": (Status(500), [(503, "status"), (500, "")]),
}


@pytest.mark.parametrize(("last", "tried"), LAST.values(), ids=LAST.keys())
async def test_the_field_says_what_was_tried_before_the_head(
    upstream: ScriptedUpstream, last: Behaviour, tried: list[tuple[int, str]]
) -> None:
    upstream.script(Status(503), last)
    async with benches() as bench:
        bench.in_turn(upstream.url, upstream.url)
        sink = await bench.ask(by_model(want_receipt=True))
        told = unpack((sink.header(b"x-junctor-receipt") or b"").decode())
        assert [(each.status, each.failure) for each in told.attempts] == tried
        assert replay(told).same


FORMS: dict[str, tuple[int, list[str], bytes]] = {
    "gzip": (200, ["Content-Encoding: gzip"], gzip.compress(b"data: {}\n\n")),
    "204": (204, [], b""),
    "304": (304, [], b""),
}


@pytest.mark.parametrize(("status", "fields", "body"), FORMS.values(), ids=FORMS.keys())
async def test_nothing_is_added_to_a_stream_that_is_no_text(
    upstream: ScriptedUpstream, status: int, fields: list[str], body: bytes
) -> None:
    lines = [f"HTTP/1.1 {status} Scripted", "Content-Type: text/event-stream", *fields]
    lines += [f"Content-Length: {len(body)}"] if body else []
    upstream.always(Raw("\r\n".join([*lines, "", ""]).encode() + body))
    async with benches() as bench:
        bench.provider("p0", upstream.url)
        sink = await bench.ask(by_provider(want_receipt=True))
        assert sink.body == body
        assert replay(unpack((sink.header(b"x-junctor-receipt") or b"").decode())).same


FAILURES: dict[str, tuple[Behaviour, dict[str, Any], str]] = {
    "reset": (Reset(), {}, "reset"),
    "total": (Hang(), {"timeout": 0.05}, "cut_off"),
    "attempt's timer": (Hang(), {"first_byte_timeout": 0.05}, "timeout"),
    "redirect": (Status(302), {}, "status"),
}


@pytest.mark.parametrize(("behaviour", "asked", "failure"), FAILURES.values(), ids=FAILURES.keys())
@pytest.mark.parametrize("call", [by_model, by_provider])
async def test_a_call_that_fails_before_its_head_has_one_in_the_error(
    upstream: ScriptedUpstream, call: Any, behaviour: Behaviour, asked: dict[str, Any], failure: str
) -> None:
    upstream.always(behaviour)
    async with benches() as bench:
        bench.in_turn(upstream.url)
        with pytest.raises(JunctorError) as caught:
            await bench.ask(call(want_receipt=True, **asked))
        receipt = unpack(caught.value.metadata["receipt"])
        assert [(each.provider, each.failure) for each in receipt.attempts] == [("default/p0", failure)]
        assert replay(receipt).same
        with pytest.raises(JunctorError) as caught:
            await bench.ask(call(**asked))
        assert "receipt" not in caught.value.metadata


async def test_a_receipt_too_long_for_trailers_is_left_out_of_an_error() -> None:
    async with benches() as bench:
        targets = [
            vpb.RoutingTarget(upstream=vpb.UpstreamTarget(provider=f"default/p{n}", upstream_id=token_hex(40)))
            for n in range(60)
        ]
        for n in range(60):
            bench.provider(f"p{n}", "http://127.0.0.1:1")
        bench.model(targets=targets)
        with pytest.raises(JunctorError) as caught:
            await bench.ask(by_model(want_receipt=True))
        assert caught.value.metadata["attempts"] == "3"
        assert "receipt" not in caught.value.metadata


@pytest.mark.parametrize("hop", ["direct", "grpc"])
async def test_errors_carry_it_and_who_was_tried_over_http_and_grpc(
    tmp_path: Path, upstream: ScriptedUpstream, hop: str
) -> None:
    async with running(tmp_path, hop=hop) as cluster:
        await cluster.add_provider("up", upstream.url)
        upstream.always(Close(), path=CHAT)
        asked = {"model": "default/test-model", "messages": []}
        answer = await cluster.http.post(CHAT, json=asked, headers={"x-junctor-receipt": "1"})
        fields = {key: value for key, value in answer.headers.items() if key.startswith("x-junctor-")}
        assert replay(unpack(fields.pop("x-junctor-receipt"))).tried == ("default/up",)
        told = {"x-junctor-provider": "default/up", "x-junctor-attempts": "1", "x-junctor-error-source": "provider"}
        assert (answer.status_code, fields) == (502, told)
        request = typed.ChatCompletionRequest(
            model="default/test-model", options=route_pb2.RequestOptions(want_receipt=True)
        )
        request.messages.add(role="user").content.add(text="Hi")
        for behaviour in (Close(), Status(429), Status(500)):
            upstream.always(behaviour, path=CHAT)
            stub = InferenceStub(cluster.channel)
            for call in (stub.CreateChatCompletion(request), stub.StreamChatCompletion(request).read()):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                error = from_rpc_error(caught.value)
                assert replay(unpack(error.metadata["receipt"])).tried == ("default/up",)


async def test_a_call_by_provider_has_one_too(upstream: ScriptedUpstream) -> None:
    upstream.always(Json(200, {}))
    async with benches() as bench:
        bench.provider("p0", upstream.url)
        sink = await bench.ask(by_provider(want_receipt=True))
        assert sink.outcome is not None
        receipt = Receipt.FromString(sink.outcome.receipt)
        assert (receipt.decision.policy, replay(receipt).same) == ("pinned", True)


async def test_nothing_is_added_for_a_call_that_asked_for_none(upstream: ScriptedUpstream) -> None:
    upstream.always(STREAM)
    async with benches() as bench:
        bench.in_turn(upstream.url)
        sink: Recorder = await bench.ask(by_model())
        assert b"receipt" not in sink.body
        assert sink.outcome is not None
        assert sink.outcome.receipt == b""


def another_order(receipt: Receipt) -> None:
    first, second = receipt.decision.candidates
    first.position, second.position = second.position, first.position


def another_course(receipt: Receipt) -> None:
    receipt.attempts[0].provider = "default/p1"


def healthy_no_more(receipt: Receipt) -> None:
    receipt.groups[0].candidates[0].returns_at = 5.0


@pytest.mark.parametrize("forge", [another_order, another_course, healthy_no_more])
async def test_a_receipt_that_was_changed_is_told(forge: Callable[[Receipt], None], upstream: ScriptedUpstream) -> None:
    upstream.always(Json(200, {"model": "vendor/m"}))
    receipt = await receipt_of(upstream.url, upstream.url)
    forge(receipt)
    assert not replay(receipt).same


def test_text_that_is_no_receipt_is_refused() -> None:
    whole = pack(Receipt(request_id="r")).decode()
    assert unpack(f": junctor-receipt {whole}\n").request_id == "r"
    assert unpack(f"x-junctor-receipt: {whole}").request_id == "r"
    for text in ("", "x", "!!", whole[:-6], "A" * 400, pack(Receipt(request_id="r" * 2_000_000)).decode()):
        with pytest.raises(InvalidField, match="receipt"):
            unpack(text)


def run(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
    done = CliRunner().invoke(build(), ["inference", "replay", *arguments], input=stdin, prog_name="junctor")
    return done.exit_code, done.stdout, done.stderr


async def test_the_command_decides_again_and_says_so(upstream: ScriptedUpstream) -> None:
    upstream.always(Json(200, {"model": "vendor/m"}))
    receipt = await receipt_of(upstream.url, upstream.url)
    code, out, _ = run("-", stdin=f": junctor-receipt {pack(receipt).decode()}\n")
    assert (code, out.splitlines()[-1]) == (0, "replayed  the same decision")
    assert "1.  default/p0 vendor/m: ordered by the policy of its virtual model" in out
    another_order(receipt)
    code, _, err = run(pack(receipt).decode())
    assert (code, err) == (1, "junctor: the receipt says another order, or another course, than this decision\n")
    code, _, err = run("nonsense")
    assert code == 2
    assert err.startswith("junctor: Invalid request: receipt: must be")


def test_a_policy_of_a_newer_release_is_named() -> None:
    receipt = Receipt()
    receipt.groups.add(virtual_model="a/b", policy="by_moonlight").candidates.add(provider="a/p", weight=1)
    code, _, err = run(pack(receipt).decode())
    assert code == 2
    assert "'by_moonlight'" in err
