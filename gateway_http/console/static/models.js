// Models: the names that route now, and the virtual models behind them.

import { ApiError, get, list } from "/console/api.js";
import { empty, h, replace, table, trouble } from "/console/dom.js";

/** Ids of the names of junctor's own, `workspace/name`; what only a vendor calls so is left out. */
export async function routable(signal) {
  const { data } = await get("/v1/models", { signal });
  return data.map((model) => ({ ...model, ours: model.id.startsWith(`${model.owned_by}/`) }));
}

export async function models(place, { signal }) {
  const [names, virtual] = await Promise.all([
    routable(signal),
    list("/apis/inference-gateway/v2/workspaces/-/virtual-models", { signal }).catch((error) => {
      if (error instanceof ApiError && error.status !== 401) return error;
      throw error;
    }),
  ]);
  const known = new Map(Array.isArray(virtual) ? virtual.map((one) => [`${one.workspace}/${one.name}`, one]) : []);
  const problem = virtual instanceof Error ? trouble(virtual) : null;
  if (!names.length) {
    replace(place, problem, empty("Nothing routes yet. A provider's models appear here as soon as it is READY:", "junctor inference providers list"));
    return;
  }
  const silent = [...known.keys()].filter((name) => !names.some((model) => model.id === name));
  replace(place, problem, h("div", { class: "card" }, table(`${names.length} names route now`, [
    { title: "Name", of: (model) => model.id },
    { title: "Leads to", of: (model) => leads(known.get(model.id), model) },
    { title: "Policy", of: (model) => known.get(model.id)?.routing?.policy ?? "–" },
    { title: "Made by", of: (model) => (known.get(model.id)?.autoprovisioned ? "discovery" : known.has(model.id) ? "hand" : "–") },
    { title: "Try", of: (model) => h("span", {},
      model.ours ? h("a", { href: `#/chat?model=${encodeURIComponent(model.id)}`, "aria-label": `Chat with ${model.id}` }, "Chat") : null, " ",
      h("a", { href: `#/explain?model=${encodeURIComponent(model.id)}`, "aria-label": `Explain the route of ${model.id}` }, "Explain")) },
  ], names)),
  silent.length ? h("div", { class: "notice" }, h("p", {}, `Virtual models that lead nowhere now: ${silent.join(", ")}`)) : null);
}

function leads(virtual, model) {
  if (!model.ours) return "a vendor's name of the model";
  const targets = virtual?.routing?.targets?.map((target) => target.model || `${target.upstream?.provider ?? ""} ${target.upstream?.model ?? ""}`.trim());
  return targets?.length ? targets.join(", ") : virtual?.default_model_entity ?? "–";
}
