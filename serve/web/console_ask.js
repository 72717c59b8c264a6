// What every part of the console needs: the server, asked as the page asks it, and a few ways to make elements.

import { Away, ask as asked, key } from "./api.js";

export { Away, key };

/** What the server answers. Throws Away, or an Error that says what the server said. */
export const ask = (path, query = {}, method = "GET") => asked(path, { query, method });

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
