// Whose page it is, and when, where and how it is made: each answer to these makes another page, and what moved is marked.

import { html, nothing } from "./vendor/lit-html/lit-html.js";

const HOURS = Array.from({ length: 24 }, (_, hour) => String(hour));
const CONTEXTS = { homepage: "Home", continue: "Continue watching", "search-empty": "Empty search" };
const DIVERSITIES = { mmr: "MMR", dpp: "DPP", calibrated: "Calibrated" };
const narrow = matchMedia("(max-width: 60rem)");

const choice = (name, label, chosen, options) => html`<label class="field">${label}
  <select name=${name} .value=${chosen}>${options.map(([value, words]) => html`<option value=${value} ?selected=${value === chosen}>${words}</option>`)}</select></label>`;

const any = (words, values) => [["", words], ...values.map((value) => [value, value])];

/** The bar of a state. `service` is what /v1/service says (null until it did), `users` some who can be asked for, `wrong` the field refused. */
export function bar(state, { service, users, wrong }) {
  const arms = service?.challenger ? [["", "As assigned"], ["champion", "Champion"], ["challenger", "Challenger"]] : [["", "Champion"]];
  const contexts = Object.entries(CONTEXTS), diversities = (service?.diversities ?? Object.keys(DIVERSITIES)).map((name) => [name, DIVERSITIES[name] ?? name]);
  return html`<details class="bar" ?open=${!narrow.matches}>
    <summary><span class="who">${state.user_id || "Nobody yet"}</span><span class="when">${summed(state)}</span></summary>
    <form id="asked" aria-label="Whose page, and how it is made">
      <label class="field user">User<input name="user_id" .value=${state.user_id} maxlength="256" autocomplete="off" autocapitalize="off" spellcheck="false" list="some-users" aria-invalid=${wrong === "user_id" ? "true" : nothing}></label>
      <datalist id="some-users">${users.map((id) => html`<option value=${id}></option>`)}</datalist>
      ${choice("context", "Page", state.context, contexts)}
      ${choice("hour", "Hour (UTC)", state.hour, [["", "Now"], ...HOURS.map((hour) => [hour, `${hour.padStart(2, "0")}:00`])])}
      ${choice("device", "Device", state.device, any("Any", service?.devices ?? held(state.device)))}
      ${choice("region", "Region", state.region, any("The user's", service?.regions ?? held(state.region)))}
      <label class="field slide"><span>Variety λ <output>${Number(state.lambda).toFixed(2)}</output></span><span class="rail"><span aria-hidden="true">varied</span><input name="lambda" type="range" min="0" max="1" step="0.05" .value=${state.lambda} aria-label="Variety: from varied (0) to best first (1)"><span aria-hidden="true">best</span></span></label>
      ${choice("diversity", "Method", state.diversity, diversities)}
      ${choice("arm", "Arm", state.arm, arms)}
      <div class="some" role="group" aria-label="Some users"><button type="button" data-do="quiz">Somebody new</button>${users.slice(0, 8).map((id) => html`<button type="button" data-do="user" data-user=${id} aria-pressed=${id === state.user_id ? "true" : "false"}>${id}</button>`)}</div>
    </form>
  </details>`;
}

const held = (value) => (value ? [value] : []);
const summed = ({ hour, device, region, lambda }) => [hour === "" ? "now" : `${hour.padStart(2, "0")}:00`, device || "any device", region || "own region", `λ ${lambda}`].join(" · ");
