// Champion and challenger: figures, and their differences with 95 % intervals drawn.

import { Away, ask, element, find, svg } from "./console_ask.js";

const WIDE = 240, HIGH = 26, EDGE = 12;
const SAID = {
  click_through: ["Click-through", "share of slates something was clicked, watched or completed from"],
  completion: ["Completion", "share of slates something was completed from"],
  watch_seconds_per_slate: ["Watch seconds", "seconds watched from a slate, mean"],
};
const digits = (value) => (value === null ? "–" : Number(value.toPrecision(3)).toLocaleString("en", { maximumFractionDigits: 5 }));
const signed = (value) => (value > 0 ? `+${digits(value)}` : digits(value));

/** The difference as a dot on its interval, beside the line where nothing differs. */
function interval({ value, low, high }) {
  const most = Math.max(Math.abs(low), Math.abs(high)) || 1, x = (at) => WIDE / 2 + (at / most) * (WIDE / 2 - EDGE);
  const tone = low > 0 ? "var(--good)" : high < 0 ? "var(--bad)" : "var(--quiet)";
  const picture = svg("svg", { class: "interval", viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": `difference ${signed(value)}, 95 % interval ${signed(low)} to ${signed(high)}` });
  picture.append(
    svg("line", { x1: WIDE / 2, x2: WIDE / 2, y1: 1, y2: HIGH - 1, stroke: "var(--edge)", "stroke-dasharray": "2 3" }),
    svg("line", { x1: x(low), x2: x(high), y1: HIGH / 2, y2: HIGH / 2, stroke: tone, "stroke-width": 3 }),
    ...[low, high].map((end) => svg("line", { x1: x(end), x2: x(end), y1: 7, y2: HIGH - 7, stroke: tone, "stroke-width": 3 })),
    svg("circle", { cx: x(value), cy: HIGH / 2, r: 5, fill: tone }),
  );
  return picture;
}

function row(arm, figure, first, rows) {
  const line = element("tr"), [name, means] = SAID[figure] ?? [figure, ""], gap = arm.differences[figure], difference = element("td"), value = element("td", digits(arm.figures[figure]), "number");
  if (first) {
    const head = element("th", arm.arm);
    head.rowSpan = rows;
    head.scope = "rowgroup";
    head.append(element("small", ""), document.createElement("br"), element("small", `${arm.users.toLocaleString("en")} users, ${arm.slates.toLocaleString("en")} slates`));
    line.append(head);
  }
  const told = element("td", name);
  told.append(element("small", means));
  if (!gap) difference.append(element("span", "what the others are compared with"));
  else if (gap.value === null || gap.low === null) difference.append(element("span", "too little to say"));
  else difference.append(interval(gap), element("span", `${signed(gap.value)} [${signed(gap.low)}, ${signed(gap.high)}]`));
  line.append(told, value, difference);
  return line;
}

function drawn(told) {
  find("arms-note").textContent = `all that was logged, as of ${new Date(told.at).toLocaleTimeString([], { hour12: false })}; made anew once a minute at most`;
  if (told.refused) return [element("p", told.refused, "notice")];
  if (!told.arms.some(({ slates }) => slates)) return [element("p", "No slate was logged yet, so there is nothing to compare.", "notice")];
  const table = element("table"), head = element("tr"), body = element("tbody"), frame = element("div", "", "scroll");
  frame.tabIndex = 0;
  frame.setAttribute("role", "region");
  frame.setAttribute("aria-label", "Table of arms");
  for (const [name, kind] of [["Arm", ""], ["Figure", ""], ["Value", "number"], ["Difference to the champion, with its 95 % interval", ""]]) head.append(Object.assign(element("th", name, kind), { scope: "col" }));
  const shown = told.arms.filter(({ arm, slates }) => slates || told.shares[arm]);
  body.append(...shown.flatMap((arm) => Object.keys(arm.figures).map((figure, index, all) => row(arm, figure, index === 0, all.length))));
  const thead = element("thead");
  thead.append(head);
  table.append(thead, body);
  frame.append(table);
  const off = told.mismatch_p !== null && told.mismatch_p < 0.001;
  const shares = Object.entries(told.shares).map(([name, share]) => `${name} ${100 * share} %`).join(", ");
  const said = told.mismatch_p === null ? `Shares: ${shares}; only one arm has any.` : `Shares (${shares}) kept: p = ${told.mismatch_p.toPrecision(3)}.${off ? " Users of one arm are lost somewhere: no difference means anything until that is found (runbook: TowersSampleRatioMismatch)." : ""}`;
  return [frame, element("p", `${said} Users in several arms: ${told.users_in_several_arms.toLocaleString("en")}. Events of no slate: ${told.events_unmatched.toLocaleString("en")}.`, off ? "notice bad" : "notice")];
}

/** Ask for the newest report and show it. */
export async function experiments() {
  try {
    find("arms-told").replaceChildren(...drawn(await ask("/v1/experiments")));
  } catch (error) {
    if (!(error instanceof Away)) find("arms-told").replaceChildren(element("p", error.message, "notice bad"));
  }
}
