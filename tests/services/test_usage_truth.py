"""The sums of usage equal what the scripted provider reported, request by request, exactly."""

from __future__ import annotations

import asyncio
import csv
import io
from pathlib import Path
from typing import Any

import pytest

from junctor.v1 import usage_pb2 as pb
from junctor.v1 import usage_pb2_grpc
from services.runtime.auth import load_or_create_token, token_metadata
from tests.cluster import running, until
from tests.stores import url_of
from tests.upstream import Json, ScriptedUpstream
from tests.usage_run import CHAT, Run


def flags(engine: str, folder: Path) -> dict[str, Any]:
    return {"database_url": url_of(folder, "any")} if engine == "postgresql" else {}


@pytest.mark.parametrize("hop", ["direct", "grpc"])
async def test_the_sum_over_a_run_is_the_providers_own(
    hop: str, engine: str, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with running(tmp_path, hop=hop, **flags(engine, tmp_path)) as cluster:
        run = Run(cluster, upstream)
        await run.prepare()
        for _ in range(3):
            await run.round()
        assert await run.told() == run.truth.sums
        found = (await cluster.http.get("/apis/usage/v2/summary?by=model,provider&by=tag:run&by=day,hour")).json()
        assert sum(line["input_tokens"] for line in found["sums"]) == run.truth.input_tokens
        assert sum(line["cost_micros"] for line in found["sums"]) == run.truth.cost_micros
        told = (await cluster.http.get("/apis/usage/v2/usage", headers={"accept": "text/csv"})).text
        rows = list(csv.DictReader(io.StringIO(told)))
        assert len(rows) == run.truth.requests
        assert sum(int(row["cost_micros"] or 0) for row in rows) == run.truth.cost_micros
        verdicts = {row["verdict"] for row in rows}
        assert verdicts == {"complete", "failed", "cancelled", "truncated"}
        assert {row["kind"] for row in rows} == {"chat", "embeddings"}
        assert max(int(row["attempts"]) for row in rows) == 2


async def test_a_record_that_is_told_twice_counts_once(engine: str, tmp_path: Path) -> None:
    async with running(tmp_path, **flags(engine, tmp_path)) as cluster:
        token = load_or_create_token(cluster.node.settings.service_token_file)
        stub = usage_pb2_grpc.UsageSinkStub(cluster.channel)
        record = pb.UsageRecord(id="x.1", workspace="default", input_tokens=5, token_source=pb.TOKEN_SOURCE_REPORTED)
        record.time.GetCurrentTime()
        for _ in range(2):
            await stub.RecordUsage(pb.RecordUsageRequest(records=[record, record]), metadata=token_metadata(token))
        usage = usage_pb2_grpc.UsageStub(cluster.channel)
        total = (await usage.SummarizeUsage(pb.SummarizeUsageRequest())).total
        assert (total.requests, total.input_tokens, total.unpriced) == (1, 5, 1)


async def test_what_is_not_reported_is_reckoned_from_bytes(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async with running(tmp_path) as cluster:
        await cluster.add_provider("up", upstream.url)
        answer = {"id": "c", "model": "test-model", "choices": []}
        upstream.script(Json(200, answer))
        response = await cluster.http.post("/v1/chat/completions", json=CHAT)
        run = Run(cluster, upstream)
        run.truth.ended()
        await run.told()
        (record,) = (await cluster.http.get("/apis/usage/v2/usage")).json()["data"]
        assert record["token_source"] == "ESTIMATED"
        assert record["input_tokens"] == -(-len(response.request.content) // 4)
        answered = -(-len(b'{"id": "c", "model": "test-model", "choices": []}') // 4)
        assert answered <= record["output_tokens"] <= answered + 2  # the status line is only known about
        assert record["cost_micros"] is None


async def test_records_are_watched_as_they_come(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async with running(tmp_path) as cluster:
        await cluster.add_provider("up", upstream.url)
        call = usage_pb2_grpc.UsageStub(cluster.channel).WatchUsage(pb.WatchUsageRequest(filter="kind:chat"))
        reading = asyncio.ensure_future(call.read())

        async def read() -> bool:  # what ends before the watch has begun is not in it
            await cluster.http.post("/v1/embeddings", json={"model": CHAT["model"], "input": "Hi"})
            await cluster.http.post("/v1/chat/completions", json=CHAT)
            return reading.done()

        await until(read)
        seen = reading.result()
        call.cancel()
        assert (seen.kind, seen.model, seen.verdict) == ("chat", "default/test-model", "complete")
