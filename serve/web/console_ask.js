// Asking the server, and the few things that every part of the console needs.

const KEY = "towers-key";

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

/** What the server answers. Throws Away, or an Error that says what the server said. */
export async function ask(path, query = {}, method = "GET") {
  const words = new URLSearchParams(query).toString();
  const headers = key.get() ? { authorization: `Bearer ${key.get()}` } : {};
  let response;
  try {
    response = await fetch(words ? `${path}?${words}` : path, { method, headers });
  } catch {
    throw new Away("The server does not answer.");
  }
  const told = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(told.detail ?? `The server answered ${response.status}.`);
  return told;
}

export const find = (id) => document.getElementById(id);

export function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

export function svg(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
