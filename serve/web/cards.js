// A card: the cover, why it is there, and what may be said of it. Everything of an item goes in as text.

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { coverOf } from "./covers/covers.js";
import { cross, heart, tick } from "./icons.js";
import { address } from "./state.js";

const items = new Map();
const said = new Map();

/** Item by item_id, of all that was ever shown: what a click means is looked up here. */
export const known = (item_id) => items.get(item_id);
export const remember = (item) => items.set(item.item_id, { ...items.get(item.item_id), ...item });
/** What was said of an item since the page was opened: an event's type, or undefined. */
export const verdict = (user_id, item_id) => said.get(`${user_id}\n${item_id}`);
export const judge = (user_id, item_id, act) => said.set(`${user_id}\n${item_id}`, act);

export const ACTS = [["like", "Like", heart], ["not_interested", "Not for me", cross], ["complete", "Watched", tick]];

/** The cover alone, lettered. */
export function cover(item) {
  const drawn = coverOf(item);
  return html`<span class="cover" .style=${`background:${drawn.sky}`}>
    <img src=${drawn.src} alt="" width="200" height="300" decoding="async" elementtiming="cover" draggable="false">
    <span class="lettering ${drawn.face} ${drawn.centred ? "centred" : ""}" .style=${`color:${drawn.letter};--size:${drawn.size}`}>${item.title}</span>
  </span>`;
}

/** How an item moved since the page before. */
const MARKS = { up: (by) => [`▲ ${by}`, `moved up by ${by}`], down: (by) => [`▼ ${by}`, `moved down by ${by}`], new: () => ["New", "new on this page"] };

function mark(moved) {
  if (!moved) return nothing;
  const [sign, words] = MARKS[moved.kind](moved.by);
  return html`<span class="mark ${moved.kind}"><span aria-hidden="true">${sign}</span><span class="unseen">, ${words}</span></span>`;
}

/** Buttons for what may be said of an item; `titled`, with their words beside the signs. */
export const acts = (item, user_id, titled) => html`<span class="acts" role="group" aria-label=${`Say something about ${item.title}`}>
  ${ACTS.map(([act, words, sign]) => html`<button type="button" data-do="tell" data-act=${act} aria-pressed=${verdict(user_id, item.item_id) === act ? "true" : "false"} title=${words}
    aria-label=${titled ? nothing : `${words}: ${item.title}`}>${sign()}${titled ? html`<span>${words}</span>` : nothing}</button>`)}
</span>`;

/** A card of a row: its cover leads to the item, its reason to the whole explanation. */
export function card(item, { user_id, moved }) {
  remember(item);
  return html`<li class="card" data-item=${item.item_id}>
    <a class="open" href=${address({ item: item.item_id })} data-do="item" title=${item.title}>${cover(item)}${mark(moved)}</a>
    <button type="button" class="reason" data-do="why" title="Why is this here?"><span>${item.reason}</span><span class="unseen">: why ${item.title}?</span></button>
    ${acts(item, user_id, false)}
  </li>`;
}

/** A cover that leads to its item, and no more. */
export function tile(item) {
  remember(item);
  return html`<li class="card" data-item=${item.item_id}><a class="open" href=${address({ item: item.item_id })} data-do="item" title=${item.title}>${cover(item)}</a></li>`;
}
