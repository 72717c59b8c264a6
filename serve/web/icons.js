// Signs of 24 × 24, drawn in the colour of the text around them.

import { svg, html } from "./vendor/lit-html/lit-html.js";

const sign = (paths) => () => html`<svg class="sign" viewBox="0 0 24 24" width="20" height="20" aria-hidden="true">${paths.map((d) => svg`<path d=${d}/>`)}</svg>`;

export const heart = sign(["M12 20s-7.5-4.6-7.5-10.2A4.3 4.3 0 0 1 12 7a4.3 4.3 0 0 1 7.5 2.8C19.5 15.4 12 20 12 20z"]);
export const cross = sign(["M6 6l12 12M18 6L6 18"]);
export const tick = sign(["M5 12.5l4.5 4.5L19 7.5"]);
export const left = sign(["M15 5l-7 7 7 7"]);
export const right = sign(["M9 5l7 7-7 7"]);
export const glass = sign(["M10.5 4a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13z", "M15.3 15.3L20 20"]);
export const ask = sign(["M9 9.2a3 3 0 1 1 4.6 2.5c-1 .7-1.6 1.2-1.6 2.5", "M12 17.6v.2"]);
