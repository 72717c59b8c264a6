// The drawer that says why: every station of an item's way onto the page, or to where it fell off.

import { html, svg, nothing } from "./vendor/lit-html/lit-html.js";
import { cover, known } from "./cards.js";
import { cross } from "./icons.js";
import { trouble } from "./say.js";

const SOURCES = { collaborative: "People like you", content: "Like what you watched, by what it is", trending: "Rising now", popular: "Popular now", editorial: "The editors", explore: "Seldom shown so far", because: "Near one thing you watched", similar: "Near this item", begun: "Begun, not finished" };
const HEADS = { click: "opens it", complete: "finishes it", watch_seconds: "watches", skip: "skips it", rating: "rates it", value: "worth in all" };
const SHOWN = 8;
const percent = (value) => `${(100 * value).toFixed(Math.abs(value) < 0.0995 ? 1 : 0)} %`;
const station = (state, title, body) => html`<li class="station ${state}"><h3>${title}</h3>${body}</li>`;

function sources(told) {
  const named = Object.entries(told), found = named.filter(([, place]) => typeof place === "number");
  return station(found.length ? "passed" : "stopped", found.length ? `Proposed by ${found.length} of ${named.length} sources` : `Proposed by none of ${named.length} sources`,
    html`<ul class="sources">${named.map(([name, place]) => html`<li class=${typeof place === "number" ? "yes" : "no"}><span>${SOURCES[name] ?? name}</span><b>${typeof place === "number" ? `no. ${place}` : place === null ? "no" : place}</b></li>`)}</ul>`);
}

function filters(told) {
  if (!told) return station("unasked", "Filters", html`<p>It never came this far.</p>`);
  const failed = Object.entries(told).filter(([, passed]) => !passed).map(([name]) => name);
  return station(failed.length ? "stopped" : "passed", failed.length ? `Left out: ${failed.join(", ")}` : `Passed all ${Object.keys(told).length} filters`,
    html`<ul class="filters">${Object.entries(told).map(([name, passed]) => html`<li class=${passed ? "yes" : "no"}><span aria-hidden="true">${passed ? "✓" : "✗"}</span> ${passed ? html`not: ${name}` : html`<strong>${name}</strong>`}</li>`)}</ul>`);
}

function ranker(told) {
  if (told.probability === null) return station("stopped", "The ranker gave it no number", nothing);
  const boosts = Object.entries(told.boosts ?? {}).filter(([, factor]) => factor !== 1);
  return station(told.rank ? "passed" : "unasked", told.rank ? `Ranked no. ${told.rank} by worth` : "What the ranker would say", html`
    <p class="figures"><span><b>${percent(told.probability)}</b> of all it could be worth</span>${boosts.map(([name, factor]) => html`<span><b>× ${factor.toFixed(2)}</b> boost: ${name}</span>`)}${told.worth !== null && boosts.length ? html`<span><b>${told.worth.toFixed(3)}</b> worth</span>` : nothing}</p>
    <dl class="heads">${Object.entries(told.heads ?? {}).map(([name, value]) => html`<div><dt>${HEADS[name] ?? name}</dt><dd>${value === null ? "none" : name.endsWith("seconds") ? `${Math.round(value)} s` : name === "rating" ? value.toFixed(1) : percent(value)}</dd></div>`)}</dl>`);
}

function history(contributions) {
  if (!contributions?.length) return station("unasked", "Nothing in the history moved it", html`<p>Nothing is known of this user yet.</p>`);
  const moved = [...contributions].filter(({ loss }) => loss !== null).sort((a, b) => Math.abs(b.loss) - Math.abs(a.loss)).slice(0, SHOWN);
  const most = Math.max(0.01, ...moved.map(({ loss }) => Math.abs(loss)));
  return station("passed", "What moved it, of all you did", html`<p>How much of its probability would be lost without each.</p>
    <ul class="moved">${moved.map(({ title, loss }) => html`<li class=${loss >= 0 ? "plus" : "minus"}><span>${title}</span>
      <svg viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true"><rect width="100" height="8" rx="1" class="ground"/><rect width=${(100 * Math.abs(loss)) / most} height="8" rx="1" class="bar"/></svg><b>${loss >= 0 ? "+" : "−"}${percent(Math.abs(loss))}</b></li>`)}</ul>
    ${contributions.length > moved.length ? html`<p class="hint">and ${contributions.length - moved.length} more that moved it less</p>` : nothing}`);
}

/** Step by step: the score of what was chosen, and this item's own there. */
function chart(steps) {
  const values = steps.flatMap(({ score, this_item }) => [score, this_item]).filter((value) => value !== null);
  const low = Math.min(...values), high = Math.max(...values), span = high - low || 1;
  const x = (at) => (steps.length === 1 ? 150 : 8 + (at * 284) / (steps.length - 1)), y = (value) => 84 - ((value - low) / span) * 72;
  const way = (pick) => steps.map((step, at) => [x(at), pick(step)]).filter(([, value]) => value !== null).map(([at, value]) => `${at.toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  const own = steps.at(-1).this_item;
  return html`<svg class="steps" viewBox="0 0 300 96" role="img" aria-label=${`At each of ${steps.length} steps, the score of what was chosen and this item's own`}>
    <line x1="0" x2="300" y1="90" y2="90" class="axis"/>
    <polyline points=${way(({ score }) => score)} class="chosen"/><polyline points=${way(({ this_item }) => this_item)} class="own"/>
    ${steps.map(({ score }, at) => svg`<circle cx=${x(at)} cy=${y(score)} r="2.4" class="chosen"/>`)}
    ${own === null ? nothing : svg`<circle cx=${x(steps.length - 1)} cy=${y(own)} r="4.5" class="own"/>`}
  </svg>
  <p class="key"><span class="chosen">what was chosen</span>${own === null ? nothing : html`<span class="own">this title</span>`}</p>
  <details><summary>In numbers</summary><table><thead><tr><th scope="col">Step</th><th scope="col">Chosen</th><th scope="col">Its score</th><th scope="col">This title</th></tr></thead>
    <tbody>${steps.map(({ step, item_id, score, this_item }) => html`<tr><td>${step}</td><td>${known(item_id)?.title ?? item_id}</td><td>${score.toFixed(3)}</td><td>${this_item === null ? "" : this_item.toFixed(3)}</td></tr>`)}</tbody></table></details>`;
}

function variety(told) {
  if (!told.steps?.length) return station("unasked", "Variety", html`<p>It never came this far.</p>`);
  const { diversity } = told;
  const like = diversity && (diversity.similarity ?? diversity.divergence);
  return station(diversity ? "passed" : "stopped", diversity ? `Chosen at step ${diversity.step} by ${diversity.method}` : "Others were chosen before it",
    html`${diversity && diversity.step > 1 ? html`<p>${diversity.similarity === undefined ? "Divergence of the genres so far" : "Its likeness to what stood there already"}: ${like.toFixed(2)}.</p>` : nothing}${chart(told.steps)}`);
}

const place = (told) => told.place === null
  ? station("stopped", told.cap ? `Held back: only so many of one ${told.cap}` : "No place on this page", nothing)
  : station("passed", `Place ${told.place} of the slate`, html`<p>Given by ${told.place_given_by}; then the slate is gathered into rows.</p>`);

/** The drawer of an explanation; `told` is null while it is asked for. */
export function whyDrawer(item, { told, failed, user_id }) {
  return html`<button type="button" class="close" data-close aria-label="Close">${cross()}</button>
    <div class="head" data-item=${item.item_id}>${cover(item)}<div><p class="over">${told ? (told.place === null ? "Why not" : "Why") : "Why"}</p><h2 id="why-title">${item.title}</h2><p class="hint">for ${user_id}</p></div></div>
    ${failed ? trouble(failed) : told ? html`<p class="verdict">${told.verdict}</p>
      <ol class="stations">${sources(told.sources)}${filters(told.filters)}${ranker(told)}${history(told.contributions)}${variety(told)}${place(told)}</ol>`
    : html`<p class="verdict">The same page is made once more, and every station of its way told.</p><div class="bones lines" aria-hidden="true"><i></i><i></i><i></i><i></i><i></i></div>`}`;
}
