// The only file that asks the server. A refusal is an error with the server's own sentence; a server that is away is another.

const KEY = "towers-key";

/** The server answered, and refused: `status`, the `field` it names (or null), its sentence, and after how many seconds to ask again. */
export class Refusal extends Error {
  constructor(status, told, after) {
    super(told.detail ?? `The server answered ${status}.`);
    Object.assign(this, { status, field: told.field ?? null, after });
  }
}

/** Nothing answered. */
export class Away extends Error {}

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  keep: (text) => sessionStorage.setItem(KEY, text),
  forget: () => sessionStorage.removeItem(KEY),
  /** A link may bring a key in its fragment, which no server sees: kept for this tab, and taken out of the address. */
  take() {
    const brought = new URLSearchParams(location.hash.slice(1)).get("key");
    if (brought === null) return;
    key.keep(brought);
    history.replaceState(history.state, "", location.pathname + location.search);
  },
};

/** What the server answers, as JSON. `query` holds parameters, `body` what is posted. Throws Refusal, Away, or an AbortError. */
export async function ask(path, { query = {}, body, signal, method = body === undefined ? "GET" : "POST" } = {}) {
  const words = new URLSearchParams(query).toString();
  const headers = key.get() ? { authorization: `Bearer ${key.get()}` } : {};
  if (body !== undefined) headers["content-type"] = "application/json";
  const options = { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal };
  let response;
  try {
    response = await fetch(words ? `${path}?${words}` : path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Away("The server does not answer.");
  }
  const told = await response.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    return {};
  });
  if (!response.ok) throw new Refusal(response.status, told, Number(response.headers.get("retry-after")) || null);
  return told;
}

/** Of several questions only the last is waited for: each call aborts the one before and gives the signal of the new one. */
export function latest() {
  let controller = new AbortController();
  return () => {
    controller.abort();
    controller = new AbortController();
    return controller.signal;
  };
}

export const aborted = (error) => error.name === "AbortError";
export const itemPath = (item_id, rest = "") => `/v1/items/${encodeURIComponent(item_id)}${rest}`;
export const userPath = (user_id, rest = "") => `/v1/users/${encodeURIComponent(user_id)}${rest}`;
