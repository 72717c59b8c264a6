// The page of one item: what it is, why it is here, what may be said of it, and more like it.

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { acts, cover, tile } from "./cards.js";
import { cross, ask as sign } from "./icons.js";
import { shelf } from "./rows.js";
import { trouble } from "./say.js";

const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeZone: "UTC" });
const minutes = (seconds) => (seconds >= 5400 ? `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min` : `${Math.max(1, Math.round(seconds / 60))} min`);

function facts(item) {
  const told = [
    ["By", item.creator], ["Part of", item.franchise], ["Out since", item.release_date && day.format(new Date(item.release_date))],
    ["Lasts", item.duration_seconds && minutes(item.duration_seconds)], ["For", item.maturity && `${item.maturity} and older`],
    ["Where", item.regions?.join(", ")], ["Posted", item.posted_at && day.format(new Date(item.posted_at))],
  ].filter(([, value]) => value);
  return told.length ? html`<dl class="facts">${told.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>` : nothing;
}

/** An item's page. `shown` is its recommendation on the page below, or undefined; `similar` its neighbours, null while they are asked for. */
export function itemPage(item, { user_id, shown, place, similar, failed }) {
  return html`<button type="button" class="close" data-close aria-label="Close">${cross()}</button>
    ${failed ? html`<h2 id="item-title">${item.title}</h2>${trouble(failed)}` : html`<article class="item" data-item=${item.item_id}>
      <div class="large">${cover(item)}</div>
      <div class="words">
        <h2 id="item-title">${item.title}</h2>
        <p class="genres">${item.genres.map((genre) => html`<span>${genre}</span>`)}${(item.tags ?? []).map((tag) => html`<span class="tag">${tag}</span>`)}</p>
        <p class="because">${shown ? html`<strong>Place ${place} on this page.</strong> ${shown.reason}` : html`<strong>Not on this page.</strong> There is a reason for that, too.`}</p>
        <p class="say">${acts(item, user_id, true)}</p>
        <p class="say"><button type="button" class="solid" data-do="why">${sign()}<span>${shown ? "Why is it here?" : "Why not on my page?"}</span></button></p>
        ${facts(item)}
      </div>
    </article>
    ${similar?.length === 0 ? html`<p class="hint">Nothing is like it so far.</p>` : similar ? shelf("More like this", similar, tile)
    : html`<div class="bones small" aria-hidden="true"><i></i><b></b><b></b><b></b><b></b><b></b><b></b></div>`}`}`;
}
