"""Receipts: what an answer says of the decision behind it, and that the decision can be made again from it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from junctor.cli.app import build
from junctor.errors import InvalidField
from junctor.v1.receipt_pb2 import Receipt
from services.inference_router.receipts import pack, unpack
from services.inference_router.replaying import replay
from tests.router_bench import Recorder, benches, by_model, by_provider
from tests.upstream import Json, ScriptedUpstream, Sse, Status

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
