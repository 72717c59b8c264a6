// What is said besides the page: aloud to who cannot see it, in a note at the foot of the screen, and where something went wrong.

import { html, render, nothing } from "./vendor/lit-html/lit-html.js";
import { ask, Away, Refusal } from "./api.js";

let fading;

/** Say a sentence in the live region. The same sentence again is said again. */
export function announce(text) {
  const said = document.getElementById("said");
  said.textContent = "";
  requestAnimationFrame(() => (said.textContent = text));
}

/** A note over the page for some seconds, also announced. */
export function toast(text) {
  const note = document.getElementById("toast");
  render(html`<p>${text}</p>`, note);
  if (note.matches(":popover-open")) note.hidePopover(); // the last shown lies on top, also over a dialog
  note.showPopover();
  clearTimeout(fading);
  fading = setTimeout(() => note.hidePopover(), 6000);
  announce(text);
}

/** What happened, as a person would want to know it: {title, text, parts, act: [label, what to do]}. */
export async function told(error) {
  if (error instanceof Away) return { kind: "away", title: "The server is away", text: "What you see is from before. It is asked again by itself." };
  if (!(error instanceof Refusal)) throw error;
  if (error.status === 401) return { kind: "key", title: "A key is needed", text: error.message, act: ["Enter a key", "key"] };
  if (error.status === 403) return { kind: "key", title: "This key may not do that", text: error.message, act: ["Enter another key", "key"] };
  if (error.status === 429) return { kind: "wait", title: "Too many questions at once", text: `${error.message} It is asked again by itself.`, after: error.after };
  if (error.status === 503) return { kind: "parts", title: "A part of the server is away", text: error.message, parts: await partsAway() };
  if (error.status >= 500) return { kind: "broken", title: "The server could not answer", text: error.message, act: ["Ask again", "retry"] };
  return { kind: "wrong", title: error.field ? `This ${error.field} cannot be asked for` : "That cannot be asked", text: error.message, act: ["Start over", "reset"] };
}

async function partsAway() {
  const response = await fetch("/readyz").catch(() => null);
  const { parts = {} } = (await response?.json().catch(() => null)) ?? {};
  return Object.entries(parts).filter(([, said]) => said !== "ready");
}

/** The panel of what went wrong, for a place in the page. */
export const trouble = (what) =>
  !what ? nothing : html`<section class="trouble ${what.kind}" role="alert">
    <h2>${what.title}</h2><p>${what.text}</p>
    ${what.parts?.length ? html`<ul>${what.parts.map(([part, said]) => html`<li><strong>${part}</strong> ${said}</li>`)}</ul>` : nothing}
    ${what.act ? html`<button type="button" class="solid" data-do=${what.act[1]}>${what.act[0]}</button>` : nothing}
    ${["away", "parts", "wait"].includes(what.kind) ? html`<button type="button" class="solid" data-do="retry">Ask now</button>` : nothing}
  </section>`;
