// Charts by uPlot: lines over time with a legend of their own, whose values are those under the cursor, else the newest.

import { element, svg } from "./console_ask.js";

const LIGHT = ["#2457c5", "#b04a12", "#12724f", "#8436a8", "#a3243b", "#0d7086", "#6a6400", "#bf2f79", "#5c574d", "#3f3f9e"];
const DARK = ["#8fb4ff", "#f5a56b", "#63d3a6", "#d5a0f2", "#ff94a0", "#6bd0e3", "#d6cf55", "#ff9fcd", "#c4c6cc", "#b3b3ff"];
const DASHES = [[], [6, 3], [2, 3]];
const AHEAD = 1.15; // of the largest value, so that no line runs along the edge
const drawn = new Map();

const dark = () => matchMedia("(prefers-color-scheme: dark)").matches;
const probe = document.body.appendChild(element("i"));
probe.hidden = true;

/** A colour of the style sheet as a canvas reads it: variables and light-dark() found out. */
function ink(name) {
  probe.style.setProperty("color", `var(${name})`);
  return getComputedStyle(probe).color;
}
export const colour = (index) => (dark() ? DARK : LIGHT)[index % LIGHT.length];
const dash = (index) => DASHES[Math.floor(index / 5) % DASHES.length];

/** Forget what is drawn: the colours changed. */
export function redraw() {
  for (const one of drawn.values()) {
    one.plot?.destroy();
    one.plot = null;
  }
}

/** Draw every chart from these points, in place. */
export function draw(within, charts, points, view) {
  for (const chart of charts) {
    if (!drawn.has(chart.id)) drawn.set(chart.id, frame(within, chart));
    (chart.bars ? bars : lines)(drawn.get(chart.id), chart, points, view);
  }
}

function frame(within, chart) {
  const figure = element("figure", "", "chart"), title = element("h3", chart.title), plot = element("div", "", chart.bars ? "" : "plot");
  const caption = element("figcaption"), unit = element("p", "", "unit"), legend = element("ul", "", "legend"), means = element("p", `${chart.means} `, "means");
  figure.id = `chart-${chart.id}`;
  figure.setAttribute("aria-label", chart.title);
  if (chart.runbook) means.append("Runbook: ", element("code", chart.runbook), ".");
  caption.append(title, unit);
  figure.append(caption, plot, legend, means);
  if (!chart.bars) {
    plot.tabIndex = 0;
    plot.setAttribute("role", "img");
  }
  const made = { figure, plotted: plot, unit, legend, plot: null, names: [], choice: null, picked: null };
  if (chart.choose) {
    made.choice = element("select");
    made.choice.setAttribute("aria-label", `Stage of: ${chart.title}`);
    made.choice.addEventListener("change", () => made.again());
    title.append(made.choice);
  }
  plot.addEventListener("keydown", (event) => walk(made, event));
  within.append(figure);
  return made;
}

function choices(made, names) {
  if (!made.choice || names.join() === made.offered) return;
  const before = made.choice.value || "total";
  made.offered = names.join();
  made.choice.replaceChildren(...names.map((name) => Object.assign(element("option", name), { value: name, selected: name === before })));
}

function lines(made, chart, points, view) {
  if (chart.choose) choices(made, chart.choose(points));
  made.again = () => lines(made, chart, points, view);
  const series = chart.series(points, made.choice?.value || "total").filter(({ values }) => values.some((value) => value !== null));
  const [times, gapped] = gaps(points.map((point) => point.at / 1000), series.map(({ values }) => values), view.every);
  const names = series.map(({ name }) => name), data = [times, ...gapped], width = made.plotted.clientWidth;
  made.unit.textContent = chart.unit;
  made.nothing?.remove();
  made.nothing = null;
  if (!series.length) {
    made.nothing = element("p", points.length ? chart.nothing ?? "Nothing of this in the time shown." : "No point yet: the first comes within seconds.", "nothing");
    made.plotted.append(made.nothing);
  }
  Object.assign(made, { series, data, chart });
  const end = view.newest / 1000;
  made.range = [end - view.seconds, end];
  if (!made.plot || made.names.join("\n") !== names.join("\n") || made.dark !== dark()) {
    made.plot?.destroy();
    made.plot = new uPlot(options(made, chart, names, width), data, made.plotted);
    Object.assign(made, { names, dark: dark() });
  } else {
    if (made.plot.width !== width) made.plot.setSize({ width, height: 168 });
    made.plot.setData(data);
  }
  tell(made, null);
}

/** Where the server was away nothing is drawn: an empty value between two points that are far apart. */
function gaps(times, columns, every) {
  const at = [], values = columns.map(() => []);
  times.forEach((time, index) => {
    if (index && time - times[index - 1] > 2.5 * every) {
      at.push((time + times[index - 1]) / 2);
      values.forEach((column) => column.push(null));
    }
    at.push(time);
    values.forEach((column, number) => column.push(columns[number][index]));
  });
  return [at, values];
}

function options(made, chart, names, width) {
  const axis = { stroke: ink("--quiet"), grid: { stroke: ink("--line"), width: 1 }, ticks: { stroke: ink("--line"), width: 1, size: 4 }, font: "11px system-ui, sans-serif" };
  const clock = (time) => new Date(1000 * time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
  return {
    width, height: 168, padding: [8, 8, 0, 0],
    cursor: { sync: { key: "console" }, drag: { x: false, y: false }, points: { size: 6 } },
    scales: {
      x: { range: () => made.range },
      y: { range: (_, low, high) => [Math.min(chart.least ?? 0, low ?? 0), Math.max(AHEAD * (high ?? 0), chart.most ?? 0) || 1] },
    },
    axes: [
      { ...axis, space: 64, size: 24, values: (_, ticks) => ticks.map(clock) },
      { ...axis, size: 52, space: 28, values: (_, ticks) => ticks.map((tick) => chart.say(tick)) },
    ],
    series: [{}, ...names.map((label, index) => ({ label, stroke: colour(index), width: 1.75, dash: dash(index), points: { show: (plot, at) => lonely(plot, at), size: 4, fill: colour(index) }, spanGaps: false }))],
    hooks: {
      setCursor: [(plot) => tell(made, plot.cursor.idx)],
      draw: [(plot) => objectives(plot, chart)],
    },
  };
}

/** Dots only where a line would not show: between two gaps. */
function lonely(plot, at) {
  const values = plot.data[at];
  return values.filter((value) => value !== null).length < 3;
}

function objectives(plot, chart) {
  for (const { value, label } of chart.objectives ?? []) {
    const y = plot.valToPos(value, "y", true), { left, top, width } = plot.bbox, context = plot.ctx;
    if (y < top) continue;
    context.save();
    Object.assign(context, { strokeStyle: ink("--quiet"), fillStyle: ink("--quiet"), lineWidth: devicePixelRatio, font: `${10 * devicePixelRatio}px system-ui, sans-serif`, textAlign: "right" });
    context.setLineDash([3 * devicePixelRatio, 4 * devicePixelRatio]);
    context.beginPath();
    context.moveTo(left, y);
    context.lineTo(left + width, y);
    context.stroke();
    context.fillText(label, left + width - 4 * devicePixelRatio, y - 4 * devicePixelRatio);
    context.restore();
  }
}

function tell(made, index) {
  const { series, chart, data } = made, last = data[0].length - 1, at = index ?? last;
  const said = series.map(({ name }, number) => [name, data[number + 1][at] ?? null]);
  made.legend.replaceChildren(...said.map(([name, value], number) => {
    const line = element("li"), sign = svg("svg", { width: 16, height: 6, "aria-hidden": "true" });
    sign.append(svg("line", { x1: 0, x2: 16, y1: 3, y2: 3, stroke: colour(number), "stroke-width": 3, "stroke-dasharray": dash(number).join(" ") || "none" }));
    line.append(sign, `${name} `, element("b", value === null ? "–" : chart.say(value, true)));
    return line;
  }));
  const when = data[0][at] ? `at ${new Date(1000 * data[0][at]).toLocaleTimeString([], { hour12: false })}` : "";
  made.unit.textContent = [chart.unit, index === null || index === undefined ? "" : when].filter(Boolean).join(" · ");
  const words = said.map(([name, value]) => `${name} ${value === null ? "none" : chart.say(value, true)}`).join(", ");
  made.plotted.setAttribute("aria-label", `${chart.title}, ${chart.unit}, ${when}: ${words || made.nothing?.textContent || ""}`);
}

/** The arrow keys walk along the points of the chart that has the focus. */
function walk(made, event) {
  const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
  if (step === undefined || !made.data?.[0].length) return;
  event.preventDefault();
  const last = made.data[0].length - 1;
  made.picked = Math.min(Math.max((made.picked ?? last) + step, 0), last);
  made.plot.setCursor({ left: made.plot.valToPos(made.data[0][made.picked], "x"), top: 0 });
}

function bars(made, chart, points) {
  const { unit, rows, nothing } = chart.bars(points);
  made.unit.textContent = unit;
  if (!rows.length) {
    made.plotted.className = "";
    made.plotted.replaceChildren(element("p", points.length ? nothing : "No point yet: the first comes within seconds.", "unit"));
    return;
  }
  const most = Math.max(...rows.map(({ value }) => value));
  made.plotted.className = "bars";
  made.plotted.replaceChildren(...rows.flatMap(({ name, value, said }, index) => {
    const bar = element("span", "", "bar"), length = element("i");
    bar.setAttribute("aria-hidden", "true");
    length.style.setProperty("width", `${Math.max((100 * value) / most, 0.5)}%`);
    length.style.setProperty("background", colour(chart.colours ? index : 0));
    bar.append(length);
    return [element("span", name), bar, element("b", said)];
  }));
}
