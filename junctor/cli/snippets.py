"""The programs of ``junctor snippet``, as ``string.Template`` (``$$`` is a dollar sign). Each runs as it is."""

from __future__ import annotations

from typing import Final

_OPENAI = """
import os

from openai import OpenAI  # pip install openai

client = OpenAI(base_url=${base}, api_key=os.environ.get("JUNCTOR_ACCESS_TOKEN", "${token}"))
"""

_NODE = """
import OpenAI from "openai"; // npm install openai; save as ask.mjs

const client = new OpenAI({
  baseURL: ${base},
  apiKey: process.env.JUNCTOR_ACCESS_TOKEN ?? "${token}",
});
"""

_LITELLM = """
import os

import litellm  # pip install litellm

"""

_LITELLM_CALL = """litellm.completion(
    model="openai/" + ${model},
    api_base=${base},
    api_key=os.environ.get("JUNCTOR_ACCESS_TOKEN", "${token}"),
    messages=[{"role": "user", "content": ${prompt}}],
"""

_ANTHROPIC = """
import os

import anthropic  # pip install anthropic

client = anthropic.Anthropic(base_url=${root}, api_key=os.environ.get("JUNCTOR_ACCESS_TOKEN", "${token}"))
"""

_ANTHROPIC_CALL = """
    model=${model},
    max_tokens=256,
    messages=[{"role": "user", "content": ${prompt}}],
"""

_GRPC_PYTHON = """
from junctor import Client  # pip install junctor
from junctor.v1 import inference_pb2 as pb

request = pb.ChatCompletionRequest(
    model=${model},
    messages=[pb.ChatMessage(role="user", content=[pb.ContentPart(text=${prompt})])],
)
with Client(${root}, grpc_target=${grpc}) as client:
"""

_GO_HEAD = """
// go mod init junctor && junctor protos export protos
// protoc --descriptor_set_in=protos/descriptor_set.binpb --go_out=. --go_opt=module=junctor \\
//   --go-grpc_out=. --go-grpc_opt=module=junctor junctor/v1/route.proto junctor/v1/inference.proto
// go mod tidy && go run .

package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"google.golang.org/grpc"${go_imports}
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	pb "junctor/v1"
)

func main() {
	channel, err := grpc.Dial(${grpc_address}, ${go_way})
	if err != nil {
		log.Fatal(err)
	}
	defer channel.Close()
	token := "Bearer " + os.Getenv("JUNCTOR_ACCESS_TOKEN")
	ctx := metadata.AppendToOutgoingContext(context.Background(), "authorization", token)
	request := &pb.ChatCompletionRequest{
		Target: &pb.ChatCompletionRequest_Model{Model: ${model}},
		Messages: []*pb.ChatMessage{{
			Role:    proto.String("user"),
			Content: []*pb.ContentPart{{Part: &pb.ContentPart_Text{Text: ${prompt}}}},
		}},
	}
"""

WHOLE: Final = {
    "curl": """
curl -sS '${url}' \\
  -H "authorization: Bearer $${JUNCTOR_ACCESS_TOKEN:-${token}}" \\
  -H 'content-type: application/json' \\
  -d '{"model": ${shell_model},
       "messages": [{"role": "user", "content": ${shell_prompt}}]}'
""",
    "python": _OPENAI
    + """answer = client.chat.completions.create(
    model=${model},
    messages=[{"role": "user", "content": ${prompt}}],
)
print(answer.choices[0].message.content)
""",
    "node": _NODE
    + """
const answer = await client.chat.completions.create({
  model: ${model},
  messages: [{ role: "user", content: ${prompt} }],
});
console.log(answer.choices[0].message.content);
""",
    "litellm": _LITELLM + "answer = " + _LITELLM_CALL + ")\nprint(answer.choices[0].message.content)\n",
    "anthropic": _ANTHROPIC
    + "answer = client.messages.create("
    + _ANTHROPIC_CALL
    + ')\nprint("".join(block.text for block in answer.content if block.type == "text"))\n',
    "grpc-python": _GRPC_PYTHON
    + """    answer = client.grpc.create_chat_completion(request)
print("".join(part.text for part in answer.choices[0].message.content))
""",
    "grpc-go": _GO_HEAD
    + """	answer, err := pb.NewInferenceClient(channel).CreateChatCompletion(ctx, request)
	if err != nil {
		log.Fatal(err)
	}
	for _, part := range answer.Choices[0].Message.Content {
		fmt.Println(part.GetText())
	}
}
""",
}
"""A program for each language; the answer comes as a whole."""

STREAMED: Final = {
    "curl": WHOLE["curl"]
    .replace("curl -sS", "curl -sSN")
    .replace('{"model": ${shell_model},', '{"model": ${shell_model}, "stream": true,'),
    "python": _OPENAI
    + """stream = client.chat.completions.create(
    model=${model},
    messages=[{"role": "user", "content": ${prompt}}],
    stream=True,
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
""",
    "node": _NODE
    + """
const stream = await client.chat.completions.create({
  model: ${model},
  messages: [{ role: "user", content: ${prompt} }],
  stream: true,
});
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
}
console.log();
""",
    "litellm": _LITELLM
    + "stream = "
    + _LITELLM_CALL
    + """    stream=True,
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
""",
    "anthropic": _ANTHROPIC
    + "with client.messages.stream("
    + _ANTHROPIC_CALL
    + """) as stream:
    for text in stream.text_stream:
        print(text, end="", flush=True)
print()
""",
    "grpc-python": _GRPC_PYTHON
    + """    for event in client.grpc.stream_chat_completion(request):
        if event.HasField("delta"):
            print(event.delta.content, end="", flush=True)
print()
""",
    "grpc-go": _GO_HEAD.replace('"fmt"\n\t"log"', '"fmt"\n\t"io"\n\t"log"')
    + """	stream, err := pb.NewInferenceClient(channel).StreamChatCompletion(ctx, request)
	if err != nil {
		log.Fatal(err)
	}
	for {
		event, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(event.GetDelta().GetContent())
	}
	fmt.Println()
}
""",
}
"""The same; the answer comes in pieces."""
