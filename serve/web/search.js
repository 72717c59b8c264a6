// Search over titles as somebody types: a combobox with a list. Enter opens the item, Shift and Enter tells why it is, or is not, on the page.

import { html, render, nothing } from "./vendor/lit-html/lit-html.js";
import { aborted, ask, latest } from "./api.js";
import { cover, remember } from "./cards.js";
import { glass } from "./icons.js";
import { announce, told } from "./say.js";

const PATIENCE_MS = 120, COUNT = 8;
const next = latest();
const now = { words: "", items: [], at: -1, open: false, failed: "" };
let waiting, place, chosen;

/** Put the search into a place of the page; `choose(item_id, how)` is called with "item" or "why". */
export function search(into, choose) {
  [place, chosen] = [into, choose];
  draw();
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input, select, textarea") || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    place.querySelector("input").focus();
  });
}

function draw() {
  render(html`
    <label class="search">${glass()}<input type="search" role="combobox" aria-label="Search titles" aria-expanded=${now.open ? "true" : "false"} aria-controls="found" aria-autocomplete="list"
      aria-activedescendant=${now.open && now.at >= 0 ? `found-${now.at}` : nothing} placeholder="Search titles" autocomplete="off" spellcheck="false" maxlength="200"
      @input=${typed} @keydown=${pressed} @focus=${() => show(now.words !== "")} @blur=${() => show(false)}></label>
    <div class="found" ?hidden=${!now.open}>
      <ul id="found" role="listbox" aria-label="Titles found">${now.items.map((item, at) => html`<li id=${`found-${at}`} role="option" aria-selected=${at === now.at ? "true" : "false"} @mousedown=${(event) => { event.preventDefault(); take(at, event.shiftKey ? "why" : "item"); }}>
        ${cover(item)}<span class="words"><strong>${item.title}</strong><span>${item.genres.join(" · ")}</span></span></li>`)}</ul>
      <p class="hint">${now.failed || (now.items.length ? "Enter opens it. Shift and Enter tells why it is, or is not, on this page." : `No title holds “${now.words}”.`)}</p>
    </div>`, place);
}

function show(open) {
  now.open = open;
  if (!open) now.at = -1;
  draw();
}

function typed(event) {
  now.words = event.target.value.trim();
  clearTimeout(waiting);
  if (!now.words) {
    next();
    Object.assign(now, { items: [], at: -1, open: false });
    return draw();
  }
  waiting = setTimeout(look, PATIENCE_MS);
}

async function look() {
  const words = now.words;
  try {
    const { items } = await ask("/v1/items", { query: { query: words, count: COUNT }, signal: next() });
    Object.assign(now, { items, at: -1, failed: "" });
    items.forEach(remember);
    announce(items.length === 1 ? "One title found" : `${items.length} titles found`);
  } catch (error) {
    if (aborted(error)) return;
    Object.assign(now, { items: [], at: -1, failed: (await told(error)).text });
  }
  show(place.contains(document.activeElement));
}

function pressed(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step && now.items.length) {
    event.preventDefault();
    now.open = true;
    now.at = (now.at + step + now.items.length + (now.at < 0 && step < 0 ? 1 : 0)) % now.items.length;
    draw();
    document.getElementById(`found-${now.at}`)?.scrollIntoView({ block: "nearest" });
  } else if (event.key === "Enter" && now.open && now.items.length) {
    event.preventDefault();
    take(Math.max(0, now.at), event.shiftKey ? "why" : "item");
  } else if (event.key === "Escape" && now.open) {
    event.preventDefault();
    show(false);
  }
}

function take(at, how) {
  const item = now.items[at];
  show(false);
  chosen(item.item_id, how);
}
