"""Calls junctor with what reflection says and nothing else: no stubs of junctor are imported.

Usage: grpc_reflection_client.py HOST:PORT. Writes what it found, a line each.
"""

import sys

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

CHAT = {"role": "user", "content": [{"text": "Hello"}]}


def main(target: str) -> None:
    with grpc.insecure_channel(target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        for service in database.get_services():
            say("service", service)
        inference = DescriptorPool(database).FindServiceByName("junctor.v1.Inference")
        whole(channel, inference.FindMethodByName("CreateChatCompletion"))
        streamed(channel, inference.FindMethodByName("StreamChatCompletion"))
        refused(channel, inference.FindMethodByName("CreateChatCompletion"))
    assert not [name for name in sys.modules if name.startswith("junctor")]


def say(*words):
    sys.stdout.write(" ".join(words) + "\n")


def stub(channel, method, kind):
    answer = message_factory.GetMessageClass(method.output_type)
    path = f"/{method.containing_service.full_name}/{method.name}"
    return getattr(channel, kind)(
        path, request_serializer=lambda message: message.SerializeToString(), response_deserializer=answer.FromString
    )


def ask(method, model):
    return message_factory.GetMessageClass(method.input_type)(model=model, messages=[CHAT])


def whole(channel, method):
    answer = stub(channel, method, "unary_unary")(ask(method, "default/demo-echo-1"))
    say("answer", "".join(part.text for part in answer.choices[0].message.content))
    say("model", answer.model)


def streamed(channel, method):
    text, verdict = "", ""
    for event in stub(channel, method, "unary_stream")(ask(method, "default/demo-echo-1")):
        text += event.delta.content
        if event.HasField("verdict"):
            field = event.verdict.DESCRIPTOR.fields_by_name["verdict"]
            verdict = field.enum_type.values_by_number[event.verdict.verdict].name
    say("streamed", text)
    say("verdict", verdict)


def refused(channel, method):
    try:
        stub(channel, method, "unary_unary")(ask(method, "default/no-such-model"))
    except grpc.RpcError as error:
        details = dict(error.trailing_metadata())["grpc-status-details-bin"]
        info = error_details_pb2.ErrorInfo()
        assert any(detail.Unpack(info) for detail in status_pb2.Status.FromString(details).details)
        say("refused", error.code().name, info.reason, info.domain)


main(sys.argv[1])
