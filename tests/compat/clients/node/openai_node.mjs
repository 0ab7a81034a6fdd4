// What applications do with OpenAI's Node SDK. The protocol of clients/serve.py: one JSON object a line, in and out.
import readline from "node:readline";
import OpenAI from "openai";

const PROMPT = [{ role: "user", content: "Hello" }];
const client = (baseURL) => new OpenAI({ baseURL, apiKey: "not-needed", maxRetries: 0 });

const calls = {
  async chat({ base_url, model }) {
    const answer = await client(base_url).chat.completions.create({ model, messages: PROMPT });
    return { model: answer.model, content: answer.choices[0].message.content, total: answer.usage?.total_tokens };
  },
  async chat_stream({ base_url, model }) {
    const stream = await client(base_url).chat.completions.create({ model, messages: PROMPT, stream: true });
    const models = new Set();
    let content = "";
    for await (const chunk of stream) {
      models.add(chunk.model);
      content += chunk.choices[0]?.delta?.content ?? "";
    }
    return { models: [...models], content };
  },
  async embeddings({ base_url, model }) {
    const answer = await client(base_url).embeddings.create({ model, input: ["one", "two"] });
    return answer.data.map((item) => item.embedding.length);
  },
  async responses({ base_url, model }) {
    const answer = await client(base_url).responses.create({ model, input: "Hello" });
    return { model: answer.model, text: answer.output_text };
  },
  async models({ base_url }) {
    const ids = [];
    for await (const model of client(base_url).models.list()) ids.push(model.id);
    return ids;
  },
};

function raised(error) {
  const classes = [];
  for (let kind = error.constructor; kind && kind.name; kind = Object.getPrototypeOf(kind)) classes.push(kind.name);
  const headers = error.headers ? Object.fromEntries(error.headers.entries()) : {};
  const known = { status_code: error.status ?? null, code: error.code ?? null, type: error.type ?? null };
  return { classes, text: String(error.message), headers, ...known, body: error.error ?? null };
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { call, args } = JSON.parse(line);
  let answer;
  try {
    answer = { returned: (await calls[call](args)) ?? null };
  } catch (error) {
    answer = { raised: raised(error) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
