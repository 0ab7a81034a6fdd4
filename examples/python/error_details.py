"""Read why a gRPC call failed, as a program does: ``python error_details.py [TARGET]``.

Act on ``ErrorInfo.reason``; the text is for people. A domain ``provider/…`` means that a provider caused the failure,
and ``RetryInfo`` that trying again may help.
"""

import sys

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from junctor.v1 import inference_pb2 as pb
from junctor.v1 import model_registry_pb2 as registry
from junctor.v1.inference_pb2_grpc import InferenceStub
from junctor.v1.model_registry_pb2_grpc import ModelRegistryStub


def main(target: str = "127.0.0.1:50051") -> None:
    """Make two calls that must fail, and print their details."""
    with grpc.insecure_channel(target) as channel:
        try:
            unknown = pb.ChatCompletionRequest(model="default/no-such-model")
            unknown.messages.add(role="user").content.add(text="Hello")
            InferenceStub(channel).CreateChatCompletion(unknown, timeout=10)
        except grpc.RpcError as error:
            explain(error)
        try:
            nameless = registry.CreateModelRequest(model=registry.Model(workspace="default", name="No Name"))
            ModelRegistryStub(channel).CreateModel(nameless, timeout=10)
        except grpc.RpcError as error:
            explain(error)


def explain(error: grpc.RpcError) -> None:
    """Print the code and every detail that a caller can act on."""
    status = rpc_status.from_call(error)
    if status is None:
        print(error)
        return
    print(f"{error.code().name}: {status.message}")
    for detail in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            print(f"  reason {info.reason}, domain {info.domain}")
        elif detail.Unpack(bad):
            for violation in bad.field_violations:
                print(f"  field {violation.field}: {violation.description}")


if __name__ == "__main__":
    main(*sys.argv[1:])
