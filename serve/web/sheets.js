// Dialogs that stand in the address. Opening keeps what had the focus; closing gives it back, or to who stands in its place now.

import { close } from "./state.js";

const came = new Map();

/** Open or close a dialog as the address says; whether it was opened now. */
export function sheet(id, open) {
  const dialog = document.getElementById(id);
  if (open === dialog.open) {
    if (!open) back(id); // the browser closed it
    return false;
  }
  if (open) {
    came.set(id, trail(document.activeElement));
    dialog.showModal();
    dialog.scrollTop = 0;
  } else {
    dialog.close();
    back(id);
  }
  return open;
}

function back(id) {
  follow(came.get(id));
  came.delete(id);
}

/** Let Escape, the close button and a press beside a dialog close it by the address; `done(id)` may do otherwise for those that have none. */
export function closable(id, done = close) {
  const dialog = document.getElementById(id);
  dialog.addEventListener("cancel", (event) => { event.preventDefault(); done(id); });
  dialog.addEventListener("close", () => { if (dialog.dataset.of) done(id); }); // a browser may close it without asking
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest("[data-close]")) done(id);
  });
}

/** How to find an element again after its place was drawn anew. */
export function trail(element) {
  const card = element?.closest?.(".card"), strip = card?.parentElement;
  if (!card) return { element };
  return { element, strip, label: card.closest("[aria-label]")?.getAttribute("aria-label"), at: [...strip.children].indexOf(card), which: [...card.querySelectorAll("a, button")].indexOf(element) };
}

/** Focus what a trail leads to: the element, or what stands at its place in its row, or the rows. */
export function follow(way) {
  if (!way) return;
  if (way.element?.isConnected && way.element !== document.body) return way.element.focus({ preventScroll: true });
  const cards = way.strip?.isConnected ? [...way.strip.children] : [];
  const card = cards[Math.min(way.at ?? 0, cards.length - 1)];
  (card?.querySelectorAll("a, button")[Math.max(0, way.which)] ?? document.getElementById("main")).focus({ preventScroll: true });
}
