// Keys of the workspaces that the user manages. The value of a new one is shown once and kept nowhere.

import { list, send } from "/console/api.js";
import { announce, empty, field, h, replace, table, trouble, when } from "/console/dom.js";

const PATH = "/apis/auth/v2/keys";

export async function keys(place, { signal, auth }) {
  const told = h("div", {});
  const rows = h("div", {});
  const note = auth ? null : h("div", { class: "notice" }, h("p", {}, "Auth is off: nobody is asked for a key. JUNCTOR_AUTH=on makes these count."));
  const workspaces = await list("/apis/entities/v2/workspaces", { signal });
  const refresh = async () => replace(rows, shown(await list(PATH, { signal }), refresh, told));
  await refresh();
  replace(place, note, creation(workspaces, refresh, told), told, rows);
}

function creation(workspaces, refresh, told) {
  const workspace = h("select", { name: "workspace" }, workspaces.map((one) => h("option", { value: one.name }, one.name)));
  if (workspaces.some((one) => one.name === "default")) workspace.value = "default";
  const role = h("select", { name: "role" }, ["Viewer", "Editor", "Admin"].map((one) => h("option", { value: one }, one)));
  const description = h("input", { name: "description", maxlength: 200, autocomplete: "off" });
  const patterns = h("input", { name: "models", autocomplete: "off", placeholder: "all; or gpt-*, team/*" });
  const days = h("input", { name: "days", type: "number", min: 1, max: 3650, placeholder: "never" });
  return h("form", { class: "card", "aria-label": "A new key", onsubmit: async (event) => {
    event.preventDefault();
    const button = event.currentTarget.querySelector("button");
    button.disabled = true;
    const body = { workspace: workspace.value, role: role.value };
    const models = patterns.value.split(",").map((one) => one.trim()).filter(Boolean);
    if (description.value.trim()) body.description = description.value.trim();
    if (models.length) body.models = models;
    if (days.value) body.expires_at = new Date(Date.now() + Number(days.value) * 86400000).toISOString();
    try {
      const made = await (await send(PATH, { method: "POST", body })).json();
      replace(told, once(made, told));
      told.querySelector("button").focus();
      announce("The key was created");
      await refresh();
    } catch (error) {
      replace(told, trouble(error));
    }
    button.disabled = false;
  } },
  h("h2", {}, "A new key"),
  h("div", { class: "row" }, field("Workspace", workspace), field("Role", role), field("Models", patterns), field("Days", days), field("What for", description)),
  h("div", { class: "buttons" }, h("button", { type: "submit" }, "Create key")));
}

function once(made, told) {
  const value = h("code", {}, made.value);
  return h("div", { class: "notice" },
    h("p", {}, "Copy it now: this is the only time that it is shown."),
    h("pre", {}, value),
    h("div", { class: "buttons" },
      h("button", { type: "button", onclick: () => navigator.clipboard?.writeText(made.value).then(() => announce("Copied"), () => announce("Cannot copy: mark the text")) }, "Copy"),
      h("button", { type: "button", class: "plain", onclick: () => { value.textContent = ""; replace(told); } }, "I have it")));
}

function shown(found, refresh, told) {
  if (!found.length) return empty("No key in the workspaces that you manage.", "junctor keys create --workspace default --role Viewer");
  return h("div", { class: "card" }, table(`${found.length} keys`, [
    { title: "Key", of: (key) => h("code", {}, `${key.prefix ?? ""}…`) },
    { title: "What for", of: (key) => key.description || "–" },
    { title: "Workspace", of: (key) => key.workspace || "all" },
    { title: "Role", of: (key) => key.role },
    { title: "Models", of: (key) => (key.models?.length ? key.models.join(", ") : "all") },
    { title: "Limits", of: limits },
    { title: "Ends", of: (key) => (key.expires_at ? when(key.expires_at) : "never") },
    { title: "Made by", of: (key) => key.created_by || "–" },
    { title: "", of: (key) => revocation(key, refresh, told) },
  ], found));
}

function limits(key) {
  const set = Object.entries(key.limits ?? {}).filter(([, value]) => value !== null);
  return set.map(([name, value]) => `${name.replaceAll("_", " ")}: ${value}`).join(", ") || "none";
}

function revocation(key, refresh, told) {
  const button = h("button", { type: "button", class: "plain" }, "Revoke", h("span", { class: "quiet" }, ` ${key.prefix ?? key.id}`));
  let sure = false;
  button.addEventListener("click", async () => {
    if (!sure) {
      sure = true;
      button.firstChild.textContent = "Revoke for good?";
      return;
    }
    button.disabled = true;
    try {
      await send(`${PATH}/${encodeURIComponent(key.id)}`, { method: "DELETE" });
      announce("The key was revoked");
      await refresh();
    } catch (error) {
      replace(told, trouble(error));
      button.disabled = false;
    }
  });
  button.addEventListener("blur", () => { sure = false; button.firstChild.textContent = "Revoke"; });
  return button;
}
