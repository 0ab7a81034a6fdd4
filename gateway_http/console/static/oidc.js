// Signs in at an OIDC issuer: the authorization code flow with PKCE (RFC 7636), state and nonce.
// State, nonce and verifier are in sessionStorage for the way there and back alone; tokens are returned, never stored.

const KEY = "junctor.sign-in";
const BACK = "/console";

export const usable = (oidc) => Boolean(oidc?.issuer && oidc.authorization_endpoint && oidc.token_endpoint && oidc.client_id);

/** Leaves for the issuer. */
export async function leave(oidc, view) {
  if (!globalThis.crypto?.subtle) throw new Error("Signing in needs HTTPS, or an address of this machine.");
  const sent = { state: random(), nonce: random(), verifier: random(), issuer: oidc.issuer, view };
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(sent.verifier));
  const url = new URL(oidc.authorization_endpoint);
  if (!["https:", "http:"].includes(url.protocol)) throw new Error("The issuer's address cannot be used.");
  const asked = {
    response_type: "code",
    client_id: oidc.client_id,
    redirect_uri: location.origin + BACK,
    scope: scopes(oidc),
    state: sent.state,
    nonce: sent.nonce,
    code_challenge: base64url(new Uint8Array(digest)),
    code_challenge_method: "S256",
  };
  for (const [name, value] of Object.entries(asked)) url.searchParams.set(name, value);
  sessionStorage.setItem(KEY, JSON.stringify(sent));
  location.assign(url);
}

/** Takes what the issuer sent us back with; null if this is no way back. Cleans the URL and the storage at once. */
export function returned() {
  const query = new URLSearchParams(location.search);
  let sent = null;
  try {
    const held = sessionStorage.getItem(KEY);
    sessionStorage.removeItem(KEY);
    sent = JSON.parse(held ?? "null");
  } catch { /* storage is off, or has what is not ours: as if there were none */ }
  if (!query.has("code") && !query.has("error")) return null;
  history.replaceState(null, "", BACK + (typeof sent?.view === "string" ? sent.view : ""));
  return { query, sent };
}

/** Redeems the code; answers the tokens to try, in order. */
export async function redeem(oidc, { query, sent }) {
  if (!sent || query.get("state") !== sent.state || sent.issuer !== oidc.issuer) {
    throw new Error("The answer of the issuer belongs to no sign-in of this tab. Sign in again.");
  }
  if (query.has("error")) {
    throw new Error(`The issuer refused: ${query.get("error_description") ?? query.get("error")}`);
  }
  const form = new URLSearchParams({
    grant_type: "authorization_code",
    code: query.get("code"),
    redirect_uri: location.origin + BACK,
    client_id: oidc.client_id,
    code_verifier: sent.verifier,
  });
  let tokens;
  try {
    const response = await fetch(oidc.token_endpoint, { method: "POST", body: form, credentials: "omit", referrerPolicy: "no-referrer" });
    tokens = await response.json();
    if (!response.ok) throw new Error(tokens.error_description ?? tokens.error ?? `status ${response.status}`);
  } catch (error) {
    throw new Error(`The issuer gave no token (${error.message}). Does it allow this page's origin, ${location.origin}?`);
  }
  checked(tokens.id_token, oidc, sent.nonce);
  return [tokens.access_token, tokens.id_token].filter((token) => typeof token === "string" && token.split(".").length === 3);
}

/** The signature is the gateway's to verify; that the token answers this very sign-in only this page can know. */
function checked(token, oidc, nonce) {
  let claims;
  try {
    claims = JSON.parse(new TextDecoder().decode(bytes(token.split(".")[1])));
  } catch {
    throw new Error("The issuer sent no usable ID token.");
  }
  const audience = [claims.aud].flat();
  if (claims.nonce !== nonce || claims.iss !== oidc.issuer || !audience.includes(oidc.client_id)) {
    throw new Error("The issuer's ID token is not for this sign-in. Sign in again.");
  }
}

/** What is told as default is for command lines: a page that forgets its tokens has no use for offline access. */
function scopes(oidc) {
  const words = (oidc.default_scopes || "openid profile email").split(/\s+/).filter((word) => word && word !== "offline_access");
  return [...new Set(["openid", ...words])].join(" ");
}

function random() {
  return base64url(crypto.getRandomValues(new Uint8Array(32)));
}

function base64url(array) {
  return btoa(String.fromCharCode(...array)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

function bytes(text) {
  return Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
}
