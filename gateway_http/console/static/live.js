// Live: calls under way, and rates from two looks at the numbers of those that have ended.

import { get } from "/console/api.js";
import { badge, count, empty, h, replace, table, trouble } from "/console/dom.js";

const EVERY = 2000;
const WINDOW = 60000;

export async function live(place, { signal }) {
  const box = h("div", {});
  const pause = h("button", { type: "button", class: "plain", "aria-pressed": "false" }, "Pause");
  const histories = new Map(); // by router process: each counts for itself
  let paused = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Go on" : "Pause";
  });
  replace(place, h("div", { class: "buttons" }, pause), box);
  const look = async () => {
    if (paused || document.hidden) return;
    try {
      const now = await get("/apis/inference-gateway/v2/activity", { signal });
      show(box, now, rates(histories, now));
    } catch (error) {
      if (error.name !== "AbortError") replace(box, trouble(error));
    }
  };
  await look();
  const timer = setInterval(look, EVERY);
  signal.addEventListener("abort", () => clearInterval(timer));
}

/** Adds this look to its router's history; answers the counts with requests and failures a minute. */
export function rates(histories, now) {
  const at = Date.parse(now.time);
  const history = histories.get(now.instance) ?? [];
  histories.set(now.instance, history);
  history.push({ at, counts: new Map(now.counts.map((one) => [`${one.model}\n${one.provider}`, one])) });
  while (history.length > 2 && at - history[0].at > WINDOW) history.shift();
  const first = history[0];
  const minutes = (at - first.at) / 60000;
  return now.counts.map((one) => {
    const before = first.counts.get(`${one.model}\n${one.provider}`) ?? { requests: 0, failed: 0 };
    const rate = (name) => (minutes > 0 ? (one[name] - before[name]) / minutes : null);
    return { ...one, rate: rate("requests"), failing: rate("failed") };
  });
}

const perMinute = (value) => (value === null ? "…" : value.toLocaleString("en", { maximumFractionDigits: 1 }));

function show(box, now, counts) {
  const calls = now.calls.length
    ? table(`${count(now.total_calls)} under way${now.total_calls > now.calls.length ? `, the ${now.calls.length} longest are shown` : ""}`, [
      { title: "Model", of: (one) => one.model || "–" },
      { title: "Provider", of: (one) => one.provider || "none yet" },
      { title: "State", of: (one) => badge(one.streaming ? "streams" : one.provider ? "waits for the provider" : "looks for a provider") },
      { title: "For", number: true, of: (one) => `${one.seconds.toFixed(1)} s` },
      { title: "Failed tries", number: true, of: (one) => count(one.failed_attempts) },
      { title: "Caller", of: (one) => one.principal || "–" },
      { title: "Request", of: (one) => h("code", {}, one.request_id) },
    ], now.calls)
    : h("p", { class: "empty" }, "No request is under way.");
  replace(box,
    h("section", { class: "card", "aria-label": "Requests under way" }, h("h2", {}, "Under way"), calls),
    counts.length
      ? h("section", { class: "card", "aria-label": "Rates" }, h("h2", {}, "Rates"), table("Requests that ended, over the last minute at most", [
        { title: "Model", of: (one) => one.model || "(by provider)" },
        { title: "Provider", of: (one) => one.provider || "none reached" },
        { title: "A minute", number: true, of: (one) => perMinute(one.rate) },
        { title: "Failed a minute", number: true, of: (one) => perMinute(one.failing) },
        { title: "Since start", number: true, of: (one) => count(one.requests) },
        { title: "Failed", number: true, of: (one) => count(one.failed) },
      ], counts))
      : empty("No request has ended yet. Send one:", "junctor chat MODEL 'Hello'"),
    h("p", { class: "small" }, now.processes > 1
      ? `This is what one of ${now.processes} router processes sees. `
      : "You see your own requests, and all of the workspaces that you manage. ",
    h("code", {}, `router ${now.instance.slice(0, 8)}`)));
}
