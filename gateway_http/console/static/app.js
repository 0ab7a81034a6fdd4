// The page as a whole: who is signed in, and which view is shown. A view is a function of a place in the document.

import { get, hasCredential, onRefused, send, setCredential } from "/console/api.js";
import { announce, field, h, replace, trouble } from "/console/dom.js";
import { chat } from "/console/chat.js";
import { explain } from "/console/explain.js";
import { keys } from "/console/keys.js";
import { live } from "/console/live.js";
import { models } from "/console/models.js";
import * as oidc from "/console/oidc.js";
import { providers } from "/console/providers.js";
import { startTheme } from "/console/theme.js";
import { usage } from "/console/usage.js";

const VIEWS = {
  chat: ["Chat", "Talk to a model, and copy the call as a program.", chat],
  providers: ["Providers", "How the providers are, and what they serve.", providers],
  models: ["Models", "The names that route now.", models],
  live: ["Live", "Requests under way, and how many there are a minute.", live],
  explain: ["Explain", "Which providers a call would be tried at, and why.", explain],
  usage: ["Usage", "What was used, and what it cost.", usage],
  keys: ["Keys", "Keys of the workspaces that you manage.", keys],
};
const PROOF = "/apis/entities/v2/workspaces?page_size=1";

const main = document.getElementById("main");
const nav = document.getElementById("nav");
const who = document.getElementById("who");
const out = document.getElementById("sign-out");

let discovery = { auth_enabled: false, oidc: null };
let leaving = new AbortController();

async function start() {
  startTheme(document.getElementById("theme"));
  document.getElementById("skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
  nav.append(...Object.entries(VIEWS).map(([name, [title]]) => h("a", { href: `#/${name}` }, title)));
  out.addEventListener("click", () => signOut("You are signed out."));
  onRefused((error) => signOut(error.message));
  addEventListener("hashchange", () => { if (!nav.hidden) show(true); });
  const back = oidc.returned();
  try {
    discovery = await get("/apis/auth/discovery", { tells: false });
  } catch (error) {
    replace(main, h("h1", {}, "The gateway does not answer"), trouble(error));
    return;
  }
  if (!discovery.auth_enabled) return enter("auth is off");
  if (!back) return signIn();
  try {
    await enterWith(await oidc.redeem(discovery.oidc ?? {}, back), "signed in");
  } catch (error) {
    signIn(error);
  }
}

/** Takes the first of these that the gateway takes. */
async function enterWith(credentials, as) {
  let refusal = new Error("The issuer gave no token that the gateway could take.");
  for (const credential of credentials) {
    try {
      await send(PROOF, { tells: false, as: credential });
      setCredential(credential);
      return enter(as);
    } catch (error) {
      refusal = error;
      if (error.status !== 401) break;
    }
  }
  throw refusal;
}

function enter(as) {
  who.textContent = as;
  nav.hidden = false;
  out.hidden = !hasCredential();
  show(false);
}

function signOut(why) {
  setCredential("");
  signIn(null, why);
}

function signIn(error = null, why = "") {
  leaving.abort();
  if (!discovery.auth_enabled) return;
  [nav.hidden, out.hidden, who.textContent] = [true, true, ""];
  const told = h("div", {}, error ? trouble(error) : null, why ? h("div", { class: "notice", role: "status" }, h("p", {}, why)) : null);
  const key = h("input", { type: "password", name: "key", autocomplete: "off", required: true, spellcheck: "false", "aria-describedby": "key-help" });
  const enterKey = async (event) => {
    event.preventDefault();
    const value = key.value.trim();
    key.value = "";
    if (!/^[\x21-\x7e]+$/.test(value)) {
      replace(told, trouble(new Error("That is no key: it has letters that no key has.")));
      return key.focus();
    }
    try {
      await enterWith([value], "signed in by a key");
    } catch (refusal) {
      replace(told, trouble(refusal));
      key.focus();
    }
  };
  const view = location.hash;
  const issuer = oidc.usable(discovery.oidc)
    ? h("div", {}, h("p", { class: "small" }, "or"),
      h("button", { type: "button", class: "plain", onclick: () => oidc.leave(discovery.oidc, view).catch((refusal) => replace(told, trouble(refusal))) },
        `Sign in at ${hostOf(discovery.oidc.issuer)}`))
    : null;
  replace(main, h("div", { class: "card sign-in" }, h("h1", {}, "Sign in"),
    h("p", { class: "lead" }, "What you see here is what your key or your user may see."), told,
    h("form", { onsubmit: enterKey }, field("Key", key),
      h("p", { class: "small", id: "key-help" }, "It stays in the memory of this page, and is gone when you close or reload it."),
      h("div", { class: "buttons" }, h("button", { type: "submit" }, "Sign in"))),
    issuer));
  document.title = "Sign in – junctor console";
  key.focus();
}

function hostOf(url) {
  try {
    return new URL(url).host;
  } catch {
    return "the issuer";
  }
}

async function show(focus) {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const [path, search] = location.hash.replace(/^#\/?/, "").split("?");
  const name = Object.hasOwn(VIEWS, path) ? path : "chat";
  const [title, lead, view] = VIEWS[name];
  for (const link of nav.children) {
    if (link.getAttribute("href") === `#/${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${title} – junctor console`;
  const place = h("div", { "aria-busy": "true" }, h("p", { class: "empty" }, "Loading …"));
  replace(main, h("h1", {}, title), h("p", { class: "lead" }, lead), place);
  if (focus) main.focus();
  try {
    await view(place, { signal, query: new URLSearchParams(search ?? ""), auth: discovery.auth_enabled });
    if (!signal.aborted) announce(`${title} is shown`);
  } catch (error) {
    if (signal.aborted || error.name === "AbortError") return;
    replace(place, trouble(error),
      h("button", { type: "button", class: "plain", onclick: () => show(true) }, "Try again"));
  }
  place.removeAttribute("aria-busy");
}

start();
