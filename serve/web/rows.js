// Rows that scroll, the grid of more below them, and what changed from one page to the next.

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { repeat } from "./vendor/lit-html/directives/repeat.js";
import { card } from "./cards.js";
import { left, right } from "./icons.js";

const still = matchMedia("(prefers-reduced-motion: reduce)");

/** [row, its items], in the order of the answer. */
export function gathered(recommendations) {
  const rows = new Map();
  for (const item of recommendations) rows.set(item.row, [...(rows.get(item.row) ?? []), item]);
  return [...rows];
}

/** One row; `make` draws an item. */
export const shelf = (title, items, make) => html`<section class="shelf" aria-label=${title}>
  <div class="head"><h2>${title}</h2>
    <span class="turn" aria-hidden="true"><button type="button" tabindex="-1" data-do="scroll" data-way="-1">${left()}</button><button type="button" tabindex="-1" data-do="scroll" data-way="1">${right()}</button></span></div>
  <ul class="strip" role="list">${repeat(items, (item) => item.item_id, make)}</ul>
</section>`;

/** All rows of an answer. `marks` says by item_id how it moved. */
export const shelves = (recommendations, { user_id, marks }) =>
  repeat(gathered(recommendations), ([title]) => title, ([title, items]) => shelf(title, items, (item) => card(item, { user_id, moved: marks.get(item.item_id) })));

/** What follows behind the rows. */
export const more = ({ items, next, busy, user_id, failed }) =>
  !items.length && !next ? nothing : html`<section class="shelf grid" aria-label="More for you">
    <div class="head"><h2>More for you</h2></div>
    <ul class="strip" role="list">${repeat(items, (item) => item.item_id, (item) => card(item, { user_id }))}</ul>
    ${failed ? html`<p class="hint">${failed}</p>` : nothing}
    ${next ? html`<button type="button" class="solid wide" data-do="more" ?disabled=${busy}>${busy ? "Looking for more" : "Show more"}</button>` : html`<p class="hint">That is everything there is for now.</p>`}
  </section>`;

/** How each item of `after` moved: by rank among those that both pages hold, so that one that left moves nobody; or that it is new. */
export function changes(before, after) {
  const was = new Set(before), is = new Set(after);
  const rank = new Map(before.filter((id) => is.has(id)).map((id, place) => [id, place]));
  const marks = new Map(after.filter((id) => !was.has(id)).map((id) => [id, { kind: "new" }]));
  after.filter((id) => was.has(id)).forEach((id, place) => {
    const by = rank.get(id) - place;
    if (by) marks.set(id, { kind: by > 0 ? "up" : "down", by: Math.abs(by) });
  });
  return marks;
}

/** What the marks come to, as a sentence. */
export function summary(marks) {
  const count = { new: 0, up: 0, down: 0 };
  for (const { kind } of marks.values()) count[kind] += 1;
  const parts = [count.new && `${count.new} new`, count.up && `${count.up} moved up`, count.down && `${count.down} moved down`].filter(Boolean);
  return parts.length ? parts.join(", ") : "nothing moved";
}

/** Where every card stands now: give it to `settle` when the page has changed. */
export function standing(place) {
  return new Map([...place.querySelectorAll(".card")].map((made) => [made, made.getBoundingClientRect()]));
}

/** Let each card slide from where it stood, and what is new come in. */
export function settle(place, stood) {
  if (still.matches) return;
  for (const made of place.querySelectorAll(".card")) {
    const was = stood.get(made), is = made.getBoundingClientRect();
    if (is.bottom < 0 || is.top > innerHeight) continue;
    if (!was) made.animate([{ opacity: 0, transform: "scale(.9)" }, { opacity: 1, transform: "none" }], { duration: 320, easing: "ease-out" });
    else if (Math.abs(was.left - is.left) > 1) made.animate([{ transform: `translateX(${was.left - is.left}px)` }, { transform: "none" }], { duration: 420, easing: "cubic-bezier(.2,.8,.2,1)" });
  }
}

/** A row is one stop of the tab key: the arrows, Home and End go from card to card. To be called on a place once; new cards join by themselves. */
export function rove(place) {
  place.addEventListener("keydown", (event) => {
    const strip = event.target.closest?.(".strip"), here = event.target.closest?.(".card");
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (!strip || !here || !step || event.altKey || event.ctrlKey || event.metaKey) return;
    const cards = [...strip.children], at = Math.min(cards.length - 1, Math.max(0, cards.indexOf(here) + step));
    const which = [...here.querySelectorAll("a, button")].indexOf(event.target);
    event.preventDefault();
    const target = cards[at].querySelectorAll("a, button")[which];
    target.focus({ preventScroll: true });
    cards[at].scrollIntoView({ block: "nearest", inline: "nearest", behavior: still.matches ? "auto" : "smooth" });
  });
  place.addEventListener("focusin", (event) => {
    const here = event.target.closest(".card");
    if (here) stop(here.parentElement, here);
  });
}

/** Make one card of each row the stop of the tab key; to be called when rows were drawn. */
export function stops(place) {
  for (const strip of place.querySelectorAll(".strip")) stop(strip, [...strip.children].find((made) => made.dataset.stop) ?? strip.firstElementChild);
}

function stop(strip, here) {
  for (const made of strip.children) {
    if (made === here) made.dataset.stop = "here";
    else delete made.dataset.stop;
    for (const target of made.querySelectorAll("a, button")) target.tabIndex = made === here ? 0 : -1;
  }
}

/** Scroll a row by as much as is seen of it. */
export function turn(button) {
  const strip = button.closest(".shelf").querySelector(".strip");
  strip.scrollBy({ left: Number(button.dataset.way) * strip.clientWidth * 0.85, behavior: still.matches ? "auto" : "smooth" });
}
