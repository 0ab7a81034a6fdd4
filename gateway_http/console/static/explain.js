// Explain: which providers a call would be tried at, in which order and why, without making it.

import { send } from "/console/api.js";
import { announce, badge, empty, field, h, replace, table, trouble } from "/console/dom.js";
import { routable } from "/console/models.js";

export async function explain(place, { signal, query }) {
  const names = await routable(signal).catch((error) => { if (error.name === "AbortError") throw error; return []; });
  const model = h("input", { name: "model", list: "names", value: query.get("model") ?? "", autocomplete: "off", placeholder: "workspace/name" });
  const provider = h("input", { name: "provider", autocomplete: "off", placeholder: "workspace/name" });
  const session = h("input", { name: "session", autocomplete: "off" });
  const result = h("div", {});
  const form = h("form", { class: "card", onsubmit: (event) => { event.preventDefault(); ask(); } },
    h("div", { class: "row" }, field("Model", model), field("or provider", provider), field("Session (for sticky routing)", session)),
    h("datalist", { id: "names" }, names.map((one) => h("option", { value: one.id }))),
    h("div", { class: "buttons" }, h("button", { type: "submit" }, "Explain")));
  const ask = async () => {
    const body = Object.fromEntries([["model", model], ["provider", provider], ["session", session]]
      .map(([name, control]) => [name, control.value.trim()]).filter(([, value]) => value));
    try {
      const answer = await (await send("/apis/inference-gateway/v2/explain", { method: "POST", body, signal })).json();
      replace(result, shown(answer));
      announce(`${answer.candidates.length} candidates`);
    } catch (error) {
      if (error.name !== "AbortError") replace(result, trouble(error));
    }
  };
  replace(place, form, result);
  if (model.value) await ask();
}

function shown(answer) {
  if (!answer.candidates.length) return empty("No provider serves this model.", "junctor inference providers list");
  return h("section", { class: "card", "aria-label": "The route" },
    h("dl", {},
      h("dt", {}, "Virtual model"), h("dd", {}, answer.virtual_model || "– (by provider)"),
      h("dt", {}, "Policy"), h("dd", {}, answer.policy),
      h("dt", {}, "Tried at most"), h("dd", {}, `${answer.attempt_cap} providers`)),
    table("In the order of attempts; refused ones last", [
      { title: "Order", of: (one) => (one.position ? String(one.position) : "refused") },
      { title: "Provider", of: (one) => one.provider },
      { title: "Its model", of: (one) => one.upstream_model || "–" },
      { title: "Why", of: (one) => h("span", {}, badge(one.reason), " ", one.detail) },
      { title: "Tier", number: true, of: (one) => String(one.tier) },
      { title: "Weight", number: true, of: (one) => String(one.weight) },
      { title: "Open calls", number: true, of: (one) => String(one.outstanding) },
    ], answer.candidates, { rowClass: (one) => (one.position ? null : "refused") }),
    h("p", { class: "small" }, "Decided from ", Object.entries(answer.revisions).map(([store, at]) => `${store} ${at}`).join(", ") || "no revision"));
}
