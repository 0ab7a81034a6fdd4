// Builds elements. Data only ever becomes text: nothing here, and nothing that uses it, parses markup.

/** Makes an element; `props` are attributes, `on…` listeners and `class`; null and false children are left out. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function replace(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

/** A labelled field. `control` is an input, select or textarea. */
export function field(label, control) {
  return h("label", {}, label, control);
}

/** A table that becomes a list of cards on a narrow screen. `columns`: {title, of, number, header}. */
export function table(caption, columns, rows, { rowClass = () => null } = {}) {
  const kind = (column) => (column.number ? "number" : null);
  return h(
    "table", {},
    h("caption", {}, caption),
    h("thead", {}, h("tr", {}, columns.map((column) => h("th", { scope: "col", class: kind(column) }, column.title)))),
    h("tbody", {}, rows.map((row) => h("tr", { class: rowClass(row) },
      columns.map((column) => h("td", { class: kind(column), "data-label": column.title }, h("span", {}, column.of(row) ?? "–"))),
    ))),
  );
}

const GOOD = new Set(["READY", "ACTIVE", "complete", "policy", "pinned", "streams"]);
const WARN = new Set(["CREATED", "PENDING", "DRAINING", "resting", "probing", "full", "attempt_cap", "draining"]);
const BAD = new Set(["ERROR", "LOST", "DISABLED", "not complete", "ejected", "disabled", "not_ready", "no_secret"]);

export function badge(text) {
  return h("span", { class: `badge ${GOOD.has(text) ? "good" : WARN.has(text) ? "warn" : BAD.has(text) ? "bad" : ""}` }, text);
}

/** Says that there is nothing, and what to do about it. */
export function empty(text, command) {
  return h("div", { class: "card empty" }, h("p", {}, text), command ? h("pre", {}, command) : null);
}

/** Shows an error as it came, with the id by which logs know the request. */
export function trouble(error) {
  const id = error.requestId ? h("p", { class: "small" }, "Request id ", h("code", {}, error.requestId)) : null;
  return h("div", { class: "notice bad", role: "alert" }, h("p", {}, error.message), id);
}

export function announce(text) {
  document.getElementById("announce").textContent = text;
}

export function when(text) {
  if (!text) return "–";
  const at = new Date(text);
  return Number.isNaN(at.getTime()) ? text : h("time", { datetime: text, title: text }, at.toLocaleString());
}

export function count(value) {
  return Number(value ?? 0).toLocaleString("en");
}
