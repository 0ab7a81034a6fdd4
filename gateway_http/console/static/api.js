// Calls the public API of the gateway that served this page, with the user's own credential.
// The credential is a variable of this module: it is in no storage, no URL and no cookie, and gone with the page.

let credential = "";
let refused = () => {};

export class ApiError extends Error {
  constructor(message, { status = 0, code = "", requestId = "" } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.requestId = requestId;
  }
}

export const hasCredential = () => credential !== "";
export const setCredential = (value) => { credential = value; };
/** Says what to do when the gateway takes the credential no longer. */
export const onRefused = (action) => { refused = action; };

/** Makes a call; answers the Response of a 2xx, throws ApiError for all else. */
export async function send(path, { method = "GET", body, signal, tells = true, as = credential } = {}) {
  const headers = {};
  if (as) headers.authorization = `Bearer ${as}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "omit", cache: "no-store", redirect: "error", referrerPolicy: "no-referrer",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The gateway cannot be reached. Is it still running?");
  }
  if (response.ok) return response;
  const error = await failure(response);
  if (error.status === 401 && tells) refused(error);
  throw error;
}

export async function get(path, options) {
  return (await send(path, options)).json();
}

/** All pages of a list of resources, up to ten. */
export async function list(path, options) {
  const joined = `${path}${path.includes("?") ? "&" : "?"}page_size=100`;
  const found = [];
  for (let page = 1; page <= 10; page += 1) {
    const answer = await get(`${joined}&page=${page}`, options);
    found.push(...answer.data);
    if (page >= (answer.pagination?.total_pages ?? 1)) return found;
  }
  found.cut = true;
  return found;
}

async function failure(response) {
  let content = null;
  try {
    content = await response.json();
  } catch { /* not ours: a proxy's page, or nothing */ }
  const requestId = response.headers.get("x-request-id") ?? "";
  const text = content?.error?.message ?? (typeof content?.detail === "string" ? content.detail : "");
  const said = typeof text === "string" && text ? text : `The gateway answered ${response.status}`;
  return new ApiError(worded(response.status, said), { status: response.status, code: content?.error?.code ?? "", requestId });
}

function worded(status, said) {
  if (status === 401) return `Sign in again: ${said}`;
  if (status === 403) return `Your role does not allow this. ${said}`;
  if (status === 404) return `There is no such thing, or you have no role where it is. ${said}`;
  if (status === 429) return `A limit is reached. ${said}`;
  return said;
}
