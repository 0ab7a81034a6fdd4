// The call of the playground as a program to copy. For a plain question these are the texts of `junctor snippet`
// (a test holds them together). A credential is read from the environment, never written into a text.

export const LANGUAGES = [["curl", "curl"], ["python", "Python"], ["grpc-python", "gRPC"]];

const NO_TOKEN = "not-needed";

/** `call`: {root, grpc, workspace, model, messages, temperature, maxTokens, stream}. */
export function written(language, call) {
  const base = `${call.root}/apis/inference-gateway/v2/workspaces/${encodeURIComponent(call.workspace)}/openai/-/v1`;
  return { curl, python, "grpc-python": grpcPython }[language](call, base);
}

/** A string literal of Python and JSON. */
const quoted = (text) => JSON.stringify(text);
const inShell = (text) => text.replaceAll("'", "'\\''");
const message = (one) => `{"role": ${quoted(one.role)}, "content": ${quoted(one.content)}}`;
const messages = (call) => `[${call.messages.map(message).join(", ")}]`;

function curl(call, base) {
  const options = [
    call.stream ? ' "stream": true,' : "",
    call.temperature === null ? "" : ` "temperature": ${call.temperature},`,
    call.maxTokens === null ? "" : ` "max_tokens": ${call.maxTokens},`,
  ].join("");
  return `curl ${call.stream ? "-sSN" : "-sS"} '${inShell(`${base}/chat/completions`)}' \\
  -H "authorization: Bearer \${JUNCTOR_ACCESS_TOKEN:-${NO_TOKEN}}" \\
  -H 'content-type: application/json' \\
  -d '{"model": ${inShell(quoted(call.model))},${options}
       "messages": ${inShell(messages(call))}}'
`;
}

function python(call, base) {
  const options = [
    call.temperature === null ? "" : `    temperature=${call.temperature},\n`,
    call.maxTokens === null ? "" : `    max_tokens=${call.maxTokens},\n`,
    call.stream ? "    stream=True,\n" : "",
  ].join("");
  const head = `import os

from openai import OpenAI  # pip install openai

client = OpenAI(base_url=${quoted(base)}, api_key=os.environ.get("JUNCTOR_ACCESS_TOKEN", "${NO_TOKEN}"))
${call.stream ? "stream" : "answer"} = client.chat.completions.create(
    model=${quoted(call.model)},
    messages=${messages(call)},
${options})
`;
  if (!call.stream) return `${head}print(answer.choices[0].message.content)\n`;
  return `${head}for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
`;
}

function grpcPython(call) {
  const one = (each) => `pb.ChatMessage(role=${quoted(each.role)}, content=[pb.ContentPart(text=${quoted(each.content)})])`;
  const name = call.workspace === "default" ? call.model : `${call.workspace}/${call.model}`;
  const options = [
    call.temperature === null ? "" : `    temperature=${call.temperature},\n`,
    call.maxTokens === null ? "" : `    max_tokens=${call.maxTokens},\n`,
  ].join("");
  const head = `from junctor import Client  # pip install junctor
from junctor.v1 import inference_pb2 as pb

request = pb.ChatCompletionRequest(
    model=${quoted(name)},
    messages=[${call.messages.map(one).join(", ")}],
${options})
with Client(${quoted(call.root)}, grpc_target=${quoted(call.grpc)}) as client:
`;
  if (!call.stream) {
    return `${head}    answer = client.grpc.create_chat_completion(request)
print("".join(part.text for part in answer.choices[0].message.content))
`;
  }
  return `${head}    for event in client.grpc.stream_chat_completion(request):
        if event.HasField("delta"):
            print(event.delta.content, end="", flush=True)
print()
`;
}
