// The playground: one chat with a model, streamed, with the truth about how each answer ended.

import { send } from "/console/api.js";
import { announce, badge, empty, field, h, replace } from "/console/dom.js";
import { routable } from "/console/models.js";
import { LANGUAGES, written } from "/console/snippets.js";
import { events } from "/console/sse.js";

const NO_CHAT = /embed|rerank|whisper|tts|transcribe|moderation|guard|dall-e|image/i;
const ROUTE = "/apis/inference-gateway/v2/workspaces/";

export async function chat(place, { signal, query }) {
  const names = (await routable(signal)).filter((model) => model.ours).map((model) => model.id);
  if (!names.length) {
    replace(place, empty("No model routes yet, so there is nobody to talk to. Add a provider:",
      "junctor inference providers create NAME --host-url https://…"));
    return;
  }
  replace(place, ...playground(names, query.get("model"), signal));
}

function playground(names, asked, signal) {
  const first = names.includes(asked) ? asked : names.find((name) => !NO_CHAT.test(name)) ?? names[0];
  const model = h("select", { name: "model" }, names.map((name) => h("option", { value: name }, name)));
  model.value = first;
  const system = h("textarea", { name: "system", rows: 2 });
  const temperature = h("input", { name: "temperature", type: "number", min: 0, max: 2, step: "any", placeholder: "the model's" });
  const maxTokens = h("input", { name: "max_tokens", type: "number", min: 1, step: 1, placeholder: "the model's" });
  const streams = h("select", { name: "stream" }, h("option", { value: "yes" }, "in pieces"), h("option", { value: "" }, "as a whole"));
  const prompt = h("textarea", { name: "prompt", rows: 3, required: true, "aria-describedby": "prompt-help" });
  const grpc = h("input", { name: "grpc", value: `${location.hostname}:50051`, autocomplete: "off" });
  const go = h("button", { type: "submit" }, "Send");
  const stop = h("button", { type: "button", class: "plain", disabled: true }, "Stop");
  const clear = h("button", { type: "button", class: "plain" }, "New chat");
  const talk = h("div", { class: "talk", role: "log", "aria-live": "polite", "aria-label": "The chat", tabindex: 0 });
  const facts = h("div", { class: "facts" });
  const state = { turns: [], sent: null, abort: null };

  const call = (turns) => {
    const [workspace, ...rest] = model.value.split("/");
    const told = system.value.trim() ? [{ role: "system", content: system.value }] : [];
    return {
      root: location.origin, grpc: grpc.value, workspace, model: rest.join("/"), messages: [...told, ...turns],
      temperature: number(temperature), maxTokens: number(maxTokens), stream: streams.value === "yes",
    };
  };
  const next = () => (prompt.value.trim() || !state.sent ? call([...state.turns, { role: "user", content: prompt.value || "Hello" }]) : { ...state.sent, grpc: grpc.value });
  const copies = copying(next);
  const controls = [model, system, temperature, maxTokens, streams, prompt, grpc];
  for (const control of controls) control.addEventListener("input", copies.show);

  const ask = async () => {
    if (state.abort || !prompt.value.trim()) return;
    const turn = { role: "user", content: prompt.value };
    state.sent = call([...state.turns, turn]);
    prompt.value = "";
    state.abort = new AbortController();
    [go.disabled, stop.disabled] = [true, false];
    copies.show();
    const shown = bubble("assistant");
    talk.append(bubble("user", turn.content).element, shown.element);
    talk.setAttribute("aria-busy", "true");
    announce("The model was asked");
    const ended = await answer(state.sent, AbortSignal.any([state.abort.signal, signal]), (text) => {
      shown.add(text);
      talk.scrollTop = talk.scrollHeight;
    }, facts);
    shown.end(ended);
    if (ended.whole) state.turns.push(turn, { role: "assistant", content: ended.text });
    talk.removeAttribute("aria-busy");
    announce(ended.whole ? "The answer is complete" : ended.why);
    state.abort = null;
    [go.disabled, stop.disabled] = [false, true];
    talk.scrollTop = talk.scrollHeight;
    if (document.activeElement === document.body || document.activeElement === stop) prompt.focus();
  };
  stop.addEventListener("click", () => state.abort?.abort());
  clear.addEventListener("click", () => {
    state.abort?.abort();
    [state.turns, state.sent] = [[], null];
    replace(talk);
    replace(facts);
    copies.show();
    prompt.focus();
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); ask(); }
  });
  copies.show();
  return [
    h("div", { class: "split" },
      h("form", { class: "card", "aria-label": "The call", onsubmit: (event) => { event.preventDefault(); ask(); } },
        field("Model", model), field("System prompt", system),
        h("div", { class: "row" }, field("Temperature", temperature), field("Max tokens", maxTokens), field("Answer", streams)),
        field("Your message", prompt), h("p", { class: "small", id: "prompt-help" }, "Ctrl-Enter sends it."),
        h("div", { class: "buttons" }, go, stop, clear)),
      h("section", { class: "card", "aria-label": "Answer" }, h("h2", {}, "Chat"), talk, facts)),
    h("section", { class: "card", "aria-label": "The same call as a program" }, h("h2", {}, "The same call"), copies.element,
      h("details", {}, h("summary", {}, "Address of the gRPC port in it"), field("Host and port", grpc)),
      h("p", { class: "small" }, "A credential is read from JUNCTOR_ACCESS_TOKEN. For the token counts this page also asks for stream_options.include_usage.")),
  ];
}

const number = (control) => (control.value === "" || Number.isNaN(control.valueAsNumber) ? null : control.valueAsNumber);

function bubble(role, text = "") {
  const content = h("span", { class: text || role === "user" ? null : "busy" }, text);
  const element = h("div", { class: `turn ${role}` }, h("b", {}, role === "user" ? "You" : "Model"), content);
  return {
    element,
    add: (more) => content.append(more),
    end: (ended) => {
      content.classList.remove("busy");
      if (ended.whole) return;
      element.classList.add("broken");
      element.append(h("div", { class: "mark" }, `${ended.why}${content.textContent ? " – what is above is not complete" : ""}`),
        ended.requestId ? h("div", { class: "small" }, "Request id ", h("code", {}, ended.requestId)) : null);
    },
  };
}

/** Makes the call. Answers {text, whole, why, requestId}; `add` gets each piece, `facts` is kept up to date. */
async function answer(call, signal, add, facts) {
  const begun = performance.now();
  const seen = { text: "", first: null, usage: null, finish: "", done: false, headers: null, status: 0 };
  const tell = (state) => replace(facts, told(seen, state, begun));
  const body = { model: call.model, messages: call.messages };
  if (call.stream) Object.assign(body, { stream: true, stream_options: { include_usage: true } });
  if (call.temperature !== null) body.temperature = call.temperature;
  if (call.maxTokens !== null) body.max_tokens = call.maxTokens;
  const end = (whole, why = "", requestId = seen.headers?.get("x-request-id") ?? "") => {
    tell(whole ? "complete" : "not complete");
    return { text: seen.text, whole, why, requestId };
  };
  try {
    const path = `${ROUTE}${encodeURIComponent(call.workspace)}/openai/-/v1/chat/completions`;
    const response = await send(path, { method: "POST", body, signal });
    [seen.headers, seen.status] = [response.headers, response.status];
    tell("streams");
    if (call.stream && (response.headers.get("content-type") ?? "").startsWith("text/event-stream")) {
      const broken = await follow(response.body, seen, begun, add, () => tell("streams"));
      if (broken) return end(false, broken);
    } else {
      take(await response.json(), seen, begun, add, "message");
      seen.done = true;
    }
  } catch (error) {
    if (signal.aborted) return end(false, "Stopped by you");
    if (error.status !== undefined) return end(false, error.message, error.requestId);
    return end(false, "The connection broke while the answer came");
  }
  if (!seen.done && !seen.finish) return end(false, "The stream ended without an end mark");
  return end(true);
}

/** Reads the stream to its end; answers why it is not complete, or nothing. */
async function follow(stream, seen, begun, add, tell) {
  for await (const { event, data } of events(stream)) {
    if (data === "[DONE]") {
      seen.done = true;
      continue;
    }
    let content;
    try {
      content = JSON.parse(data);
    } catch {
      return "The answer became unreadable";
    }
    if (event === "error" || content.error) return String(content.error?.message ?? content.message ?? "The answer broke off");
    const before = seen.text.length;
    take(content, seen, begun, add, "delta");
    if (seen.text.length !== before) tell();
  }
  return "";
}

function take(content, seen, begun, add, part) {
  if (content.usage) seen.usage = content.usage;
  const choice = content.choices?.[0];
  if (choice?.finish_reason) seen.finish = choice.finish_reason;
  const text = choice?.[part]?.content;
  if (typeof text !== "string" || !text) return;
  seen.first ??= performance.now() - begun;
  seen.text += text;
  add(text);
}

const milliseconds = (value) => `${Math.round(value).toLocaleString("en")} ms`;

function told(seen, state, begun) {
  const passed = performance.now() - begun;
  const attempts = Number(seen.headers?.get("x-junctor-attempts") ?? 0);
  const pairs = [
    ["State", badge(state)],
    ["Provider", seen.headers?.get("x-junctor-provider")],
    ["Tried", attempts ? `${attempts} ${attempts === 1 ? "provider" : "providers"}` : null],
    ["First text", seen.first === null ? null : milliseconds(seen.first)],
    ["In all", milliseconds(passed)],
    ["Tokens", seen.usage ? `${seen.usage.prompt_tokens ?? "?"} in, ${seen.usage.completion_tokens ?? "?"} out` : seen.headers ? "not told" : null],
    ["Ended by", seen.finish || null],
    ["Request id", seen.headers ? h("code", {}, seen.headers.get("x-request-id") ?? "–") : null],
  ];
  return h("dl", {}, pairs.filter(([, value]) => value).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function copying(next) {
  let language = LANGUAGES[0][0];
  const text = h("code", {});
  const panel = h("pre", { id: "snippet", role: "tabpanel", tabindex: 0, "aria-label": "Program" }, text);
  const show = () => {
    text.textContent = written(language, next());
    for (const tab of tabs) {
      const chosen = tab.value === language;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
    }
  };
  const choose = (tab) => { language = tab.value; show(); };
  const tabs = LANGUAGES.map(([value, name]) => h("button", {
    type: "button", role: "tab", value, "aria-controls": "snippet", onclick: (event) => choose(event.currentTarget),
  }, name));
  const list = h("div", { class: "tabs", role: "tablist", "aria-label": "Language", onkeydown: (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const tab = tabs[(tabs.findIndex((one) => one.value === language) + step + tabs.length) % tabs.length];
    choose(tab);
    tab.focus();
  } }, tabs);
  const copy = h("button", { type: "button", class: "plain", onclick: () => navigator.clipboard?.writeText(text.textContent)
    .then(() => announce("Copied"), () => announce("Cannot copy: mark the text")) }, "Copy");
  return { element: h("div", {}, h("div", { class: "head" }, list, copy), panel), show };
}
