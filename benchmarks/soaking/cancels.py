"""Thousands of calls that their callers abandon, in each phase, over REST and gRPC, plain and streamed."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc

from benchmarks.inference import machine
from benchmarks.inference.targets import Target
from benchmarks.soaking.provider import Provider
from benchmarks.soaking.steady import connections
from junctor.channel import open_channel
from junctor.v1 import inference_pb2 as typed
from junctor.v1.inference_pb2_grpc import InferenceStub

PHASES = ("queue", "connect", "headers", "middle")
_AT_ONCE = 100
_PROVIDER = "/apis/models/v2/workspaces/default/providers/bench"


def cancels(target: Target, provider: Provider, number: int) -> Iterator[str]:
    """Abandon ``number`` calls in each phase; gives a line of a report after each."""
    for phase in PHASES:
        yield asyncio.run(_phase(target, provider, phase, number))


async def _phase(target: Target, provider: Provider, phase: str, number: int) -> str:
    provider.mode = "middle" if phase == "middle" else "headers"
    async with open_channel(f"127.0.0.1:{target.rpc}") as channel:
        with ExitStack() as stack:
            if phase == "queue":
                _limit(target, provider, 1)
                stack.enter_context(_http(target, stream=False))
                await _until(provider, 1)
            if phase == "connect":
                stack.enter_context(provider.clogged())
            for _ in range(max(1, number // 10 // _AT_ONCE)):  # what is made once is made now
                await _round(target, provider, phase, channel)
            before = await _state(target, provider)
            began = time.perf_counter()
            for _ in range(number // _AT_ONCE):
                await _round(target, provider, phase, channel)
            each = (time.perf_counter() - began) / number * 1000
            after = await _state(target, provider)
        if phase == "queue":
            _limit(target, provider, 0)
    files, open_, memory = (f"{old:.0f} → {new:.0f}" for old, new in zip(before, after, strict=True))
    return f"| {phase} | {number:,} | {each:.1f} | {files} | {open_} | {memory} |"


async def _round(target: Target, provider: Provider, phase: str, channel: grpc.aio.Channel) -> None:
    callers, calls, waiting = [], [], provider.waiting
    for index in range(_AT_ONCE // 2):
        callers.append(_http(target, stream=index % 2 == 0))
        calls.append(_grpc(channel, target.model, stream=index % 2 == 0))
    if phase in ("queue", "connect"):
        await asyncio.sleep(0.25)
    else:
        await _until(provider, waiting + _AT_ONCE)
    for index, caller in enumerate(callers):
        if index % 2:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        caller.close()
    for call in calls:
        call.cancel()
    await _until(provider, waiting)


async def _until(provider: Provider, waiting: int) -> None:
    async with asyncio.timeout(30):
        while provider.waiting != waiting:  # noqa: ASYNC110 - the provider lives in another thread
            await asyncio.sleep(0.002)


async def _state(target: Target, provider: Provider) -> tuple[float, float, float]:
    """Open files, connections to the provider, MiB; once what was abandoned had a moment to end."""
    await asyncio.sleep(1.5)
    leaders = target.leaders
    return machine.descriptors(leaders), connections(leaders, provider.port), machine.resident(leaders)


def _http(target: Target, *, stream: bool) -> socket.socket:
    body = target.request(stream=stream)
    caller = socket.create_connection(("127.0.0.1", target.port))
    head = f"POST {target.path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    caller.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return caller


def _grpc(channel: grpc.aio.Channel, model: str, *, stream: bool) -> Any:
    message = typed.ChatMessage(role="user", content=[typed.ContentPart(text="Hi")])
    request = typed.ChatCompletionRequest(model=model, messages=[message])
    stub = InferenceStub(channel)
    return stub.StreamChatCompletion(request) if stream else stub.CreateChatCompletion(request)


def _limit(target: Target, provider: Provider, calls: int) -> None:
    body = json.dumps({"host_url": f"http://127.0.0.1:{provider.port}", "max_concurrency": calls})
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=10)
    connection.request("PUT", _PROVIDER, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"the provider cannot be limited: {answer.status}")
    time.sleep(2)  # until it was asked for its models again
