"""Typed inference over gRPC as docs/grpc.md describes it: ``python chat.py [TARGET] [MODEL] [EMBED_MODEL] [TEXT]``.

A chat, a stream that is cancelled, an error with its details, embeddings that are larger than one message may be, and a
stream that stays alive while the model is silent.
"""

import json
import sys
import time

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from junctor.v1 import inference_pb2 as pb
from junctor.v1 import route_pb2
from junctor.v1.inference_pb2_grpc import InferenceStub

SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "junctor.v1.Inference"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.2},
}
OPTIONS = [
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.keepalive_time_ms", 10_000),  # the shortest that junctor allows; 20 s will do for most
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
INPUTS, DIMENSIONS = 320, 4096


def main(
    target: str = "127.0.0.1:50051",
    model: str = "default/demo-echo-1",
    embed_model: str = "default/demo-embed-1",
    say: str = "Hello again",
) -> None:
    """Make every kind of call once; exits 1 if one fails."""
    with grpc.insecure_channel(target, options=OPTIONS) as channel:
        stub = InferenceStub(channel)
        chat(stub, model)
        cancelled(stub, model)
        details(stub)
        embeddings(stub, embed_model)
        stream(stub, model, say)


def question(model: str, text: str) -> pb.ChatCompletionRequest:
    """Make a chat of one message."""
    request = pb.ChatCompletionRequest(model=model)
    request.messages.add(role="user").content.add(text=text)
    return request


def chat(stub: InferenceStub, model: str) -> None:
    """Ask once. The deadline caps all that junctor tries."""
    answer = stub.CreateChatCompletion(question(model, "Hello from Python"), timeout=30)
    print(f"chat: {answer.choices[0].message.content[0].text!r} by {answer.route.provider}")


def cancelled(stub: InferenceStub, model: str) -> None:
    """Stop after the first text; junctor closes the connection to the provider at once."""
    events = stub.StreamChatCompletion(question(model, "endless"), timeout=60)
    for event in events:
        if event.HasField("delta") and event.delta.content:
            events.cancel()
            break
    print("cancel: stopped")


def details(stub: InferenceStub) -> None:
    """Read why a call failed, and whether it may be repeated."""
    try:
        stub.CreateChatCompletion(question("default/no-such-model", "Hello"), timeout=30)
    except grpc.RpcError as error:
        if (status := rpc_status.from_call(error)) is None:
            raise  # not junctor's: no connection, for instance
        info = error_details_pb2.ErrorInfo()
        next(detail for detail in status.details if detail.Is(info.DESCRIPTOR)).Unpack(info)
        pushback = dict(error.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
        print(f"error: {error.code().name}, reason {info.reason}, domain {info.domain}, pushback {pushback}")


def embeddings(stub: InferenceStub, model: str) -> None:
    """Read the streaming twin: the unary call would be more than the 4 MiB that a client takes."""
    request = pb.EmbeddingsRequest(model=model, dimensions=DIMENSIONS)
    request.input.texts.values.extend(f"text {number}" for number in range(INPUTS))
    count = size = 0
    for event in stub.StreamEmbeddings(request, timeout=60):
        for one in event.batch.data:
            count, size = count + 1, size + 4 * len(one.values)
    print(f"embeddings: {count} of {size} bytes")
    if count != INPUTS:
        sys.exit("some are missing")


def stream(stub: InferenceStub, model: str, say: str) -> None:
    """Read an answer as it comes, however long the model is silent. Only the verdict says that it is whole."""
    text, verdict, silence, last = "", 0, 0.0, time.monotonic()
    for event in stub.StreamChatCompletion(question(model, say), timeout=180):
        silence, last = max(silence, time.monotonic() - last), time.monotonic()
        text += event.delta.content
        if event.HasField("verdict"):
            verdict = event.verdict.verdict
    print(f"stream: {text!r}, {route_pb2.Verdict.Name(verdict)}, silent for {silence:.0f} s")
    if verdict != route_pb2.VERDICT_COMPLETE:
        sys.exit("the answer is not complete")


if __name__ == "__main__":
    main(*sys.argv[1:])
