// What frames the rows: whose page it is, what is left where nothing is, and how the answer was made.

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { cover } from "./cards.js";
import { summary } from "./rows.js";
import { address } from "./state.js";

/** Whose page this is, what is known of them, and what changed. */
export function intro({ profile: of, answer, marks, state, tried }) {
  const by = answer?.answered_by ?? "", without = /\(without (.*)\)/.exec(by)?.[1];
  return html`<div class="intro">
    <div><h1>${state.user_id ? html`For <em>${state.user_id}</em>` : "Towers"}</h1>
      <p class="known">${of ? [of.events === 1 ? "1 event" : `${of.events} events`, of.region, of.subscription_tier, of.answers ? `${of.answers} quiz answers` : ""].filter(Boolean).join(" · ") : " "}</p>
      <p class="moved">${marks.size ? html`<span>${summary(marks)}</span> <button type="button" class="quiet small" data-do="clear">Clear the marks</button>` : tried ? html`Tried out: this page is not logged as shown` : answer ? html`Picked ${by === "precomputed" ? "ahead of time" : `in ${answer.generated_in_ms.toFixed(0)} ms`} by release ${answer.model_version}` : " "}</p></div>
    <div class="lately">${of?.history.length ? html`<h2>Lately</h2><ul role="list">${of.history.slice(0, 7).map((item) => html`<li data-item=${item.item_id}><a href=${address({ item: item.item_id })} data-do="item" aria-label=${item.title} title=${item.title}>${cover(item)}</a></li>`)}</ul>` : nothing}</div>
  </div>
  ${by.startsWith("popular") ? html`<section class="trouble new" aria-label="Nothing is known of this user"><h2>Nothing is known of ${state.user_id} yet</h2><p>This is what is popular, for nobody in particular. Some questions make it theirs.</p><button type="button" class="solid" data-do="quiz">Take the quiz</button></section>` : nothing}
  ${without ? html`<p class="note">Made without ${without}: ${without.includes("ranker") || without.includes("user") ? "a model" : "a part"} did not answer in time, so this page knows a little less than usual.</p>` : nothing}`;
}

/** What stands where nothing is left to show. */
export const empty = () => html`<section class="trouble empty"><h2>There is nothing left to show</h2><p>Everything was watched, refused, or is not to be had there.</p><button type="button" class="solid" data-do="reset">Ask as usual</button></section>`;

/** How the answer was made. */
export function footer({ model_version, answered_by, generated_in_ms, stage_ms, dropped, arm }) {
  const stages = Object.entries(stage_ms).map(([name, ms]) => `${name.replaceAll("_", " ")} ${ms.toFixed(1)}`).join(" · ");
  const out = Object.entries(dropped).map(([why, count]) => `${count} ${why}`).join(", ");
  return html`<p>Release ${model_version}, ${arm}. ${answered_by}, in ${generated_in_ms.toFixed(1)} ms (${stages}).${out ? ` Left out: ${out}.` : ""}</p><p><a href="/docs">The API</a> · <a href="/console">The console</a></p>`;
}
