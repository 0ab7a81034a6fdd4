"""Stream a chat over gRPC: ``python stream.py [TARGET] [MODEL]``. Only the verdict says that an answer is whole."""

import sys

import grpc

from junctor.v1 import inference_pb2 as pb
from junctor.v1 import route_pb2
from junctor.v1.inference_pb2_grpc import InferenceStub


def main(target: str = "127.0.0.1:50051", model: str = "default/demo-echo-1") -> None:
    """Print the answer as it comes, then who gave it and how it ended."""
    request = pb.ChatCompletionRequest(model=model)
    request.messages.add(role="user").content.add(text="Hello from Python")
    with grpc.insecure_channel(target) as channel:
        for event in InferenceStub(channel).StreamChatCompletion(request, timeout=60):
            match event.WhichOneof("event"):
                case "start":
                    print(f"[{event.start.route.provider}]")
                case "delta":
                    print(event.delta.content, end="", flush=True)
                case "verdict":
                    print(f"\n[{route_pb2.Verdict.Name(event.verdict.verdict)}]")


if __name__ == "__main__":
    main(*sys.argv[1:])
