// Providers: how they are, what they serve, and when they are looked at again.

import { list, send } from "/console/api.js";
import { announce, badge, empty, h, replace, trouble, when } from "/console/dom.js";

const ADD = "junctor inference providers create NAME --host-url https://…";

export async function providers(place, { signal }) {
  const found = await list("/apis/models/v2/workspaces/-/providers", { signal });
  if (!found.length) {
    replace(place, empty("No provider yet, or none that you may see. Add one:", ADD));
    return;
  }
  const again = h("button", { type: "button", class: "plain", onclick: () => providers(place, { signal }).then(
    () => { announce("The providers were read again"); place.querySelector("button")?.focus(); },
    (error) => { if (error.name !== "AbortError") replace(place, trouble(error)); }) }, "Read again");
  replace(place, h("div", { class: "buttons" }, again), h("div", { class: "grid" }, found.map((one) => card(one))),
    found.cut ? h("p", { class: "small" }, "More than 1,000 providers: the others are not shown.") : null);
}

function card(provider) {
  const name = `${provider.workspace}/${provider.name}`;
  const told = h("div", {});
  const box = h("article", { class: "card", "aria-label": `Provider ${name}` });
  const served = provider.served_models ?? [];
  replace(box,
    h("div", { class: "head" }, h("h2", {}, name), h("span", {}, badge(provider.status ?? "UNKNOWN"), " ",
      provider.admin_state && provider.admin_state !== "ACTIVE" ? badge(provider.admin_state) : null)),
    provider.status_message ? h("p", {}, provider.status_message) : null,
    h("dl", {},
      h("dt", {}, "Address"), h("dd", {}, provider.host_url ?? "–"),
      h("dt", {}, "Last look"), h("dd", {}, when(provider.last_attempt)),
      h("dt", {}, "Next look"), h("dd", {}, when(provider.next_attempt)),
      h("dt", {}, "Admin state"), h("dd", {}, provider.admin_state ?? "ACTIVE")),
    h("details", {}, h("summary", {}, `${served.length} served ${served.length === 1 ? "model" : "models"}`),
      h("ul", {}, served.map((model) => h("li", {}, model.model_entity_id, h("span", { class: "small" }, ` as ${model.served_model_name}`))))),
    h("div", { class: "buttons" },
      h("button", { type: "button", class: "plain", onclick: (event) => reset(event.currentTarget, provider, told) },
        "Reset health", h("span", { class: "quiet" }, ` of ${name}`))),
    told);
  return box;
}

async function reset(button, provider, told) {
  const path = `/apis/models/v2/workspaces/${encodeURIComponent(provider.workspace)}/providers/${encodeURIComponent(provider.name)}/reset`;
  button.disabled = true;
  try {
    await send(path, { method: "POST" });
    replace(told, h("p", { class: "small" }, "Done: it is asked again at once, and no longer put aside."));
    announce(`The health of ${provider.name} was reset`);
  } catch (error) {
    replace(told, trouble(error));
  }
  button.disabled = false;
}
