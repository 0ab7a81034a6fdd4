// Usage and cost, added up by the gateway; what a caller sees are the workspaces that it manages.

import { get } from "/console/api.js";
import { count, empty, field, h, replace, table, trouble } from "/console/dom.js";

const BY = [["model", "model"], ["workspace", "workspace"], ["provider", "provider"], ["principal", "key or user"], ["verdict", "verdict"], ["day", "day"], ["hour", "hour"]];
const SINCE = [["1", "the last hour"], ["24", "the last day"], ["168", "the last week"], ["720", "the last 30 days"]];

const options = (list) => list.map(([value, text]) => h("option", { value }, text));

export async function usage(place, { signal }) {
  const by = h("select", {}, options(BY));
  const since = h("select", {}, options(SINCE));
  since.value = "24";
  const result = h("div", { "aria-live": "polite" });
  const ask = async () => {
    const from = new Date(Date.now() - Number(since.value) * 3600000).toISOString();
    try {
      const answer = await get(`/apis/usage/v2/summary?by=${by.value}&since=${encodeURIComponent(from)}`, { signal });
      replace(result, shown(answer, by.options[by.selectedIndex].text));
    } catch (error) {
      if (error.name === "AbortError") return;
      if ((error.status === 404 && error.code !== "resource_not_found") || error.status === 501) replace(result, empty("Usage is not available at this gateway.", null));
      else replace(result, trouble(error));
    }
  };
  by.addEventListener("change", ask);
  since.addEventListener("change", ask);
  replace(place, h("div", { class: "card row" }, field("Add up by", by), field("Over", since)), result);
  await ask();
}

/** Millionths of a dollar as dollars; small sums with the digits that they need. */
export function dollars(micros) {
  const value = Number(micros ?? 0) / 1e6;
  return `$${value.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: value !== 0 && Math.abs(value) < 1 ? 6 : 2 })}`;
}

function cost(sum) {
  const unpriced = Number(sum.unpriced ?? 0);
  const known = Number(sum.requests ?? 0) - unpriced;
  if (unpriced && known <= 0) return "unknown: no price";
  return unpriced ? `${dollars(sum.cost_micros)} and ${count(unpriced)} without a price` : dollars(sum.cost_micros);
}

function shown(answer, what) {
  const sums = answer.sums ?? answer.data ?? [];
  if (!sums.length) return empty("Nothing was used in that time, or you manage no workspace in which something was.", "junctor usage --by model --since 24h");
  const name = (sum) => [sum.group ?? []].flat().join(" · ") || "(none)";
  const rows = answer.total ? [...sums, { ...answer.total, group: ["all of it"] }] : sums;
  return h("div", { class: "card" }, table(`By ${what}`, [
    { title: what[0].toUpperCase() + what.slice(1), of: name },
    { title: "Requests", number: true, of: (sum) => count(sum.requests) },
    { title: "Failed", number: true, of: (sum) => count(sum.failed) },
    { title: "Tokens in", number: true, of: (sum) => count(sum.input_tokens) },
    { title: "of these cached", number: true, of: (sum) => count(sum.cached_tokens) },
    { title: "Tokens out", number: true, of: (sum) => count(sum.output_tokens) },
    { title: "Cost", number: true, of: cost },
  ], rows));
}
