// Where a key is put in, for a server that wants one for writing or reading. It stays in this tab.

import { html, render, nothing } from "./vendor/lit-html/lit-html.js";
import { key } from "./api.js";
import { cross } from "./icons.js";

/** Draw the place for a key; `kept` is called when it changed. */
export function keyNote(kept) {
  const dialog = document.getElementById("key");
  render(html`<button type="button" class="close" data-close aria-label="Close">${cross()}</button>
    <form method="dialog" @submit=${(event) => { key.keep(event.target.elements.key.value.trim()); event.target.reset(); kept(); }}>
      <h2 id="key-title">Your key</h2>
      <p>Whoever runs this server made it: <code>python -m serve key add</code>. It is kept until this tab is closed, and sent to this server only.</p>
      <label class="field">Key<input name="key" type="password" required autocomplete="off" spellcheck="false"></label>
      <p class="say"><button type="submit" class="solid">Use it</button>${key.get() ? html`<button type="button" class="quiet" @click=${() => { key.forget(); kept(); }}>Forget the one I gave</button>` : nothing}</p>
    </form>`, dialog);
}
