// The console: asks its own server every few seconds, keeps half an hour, and puts every word of an answer in by textContent.

import { Away, ask, element, find, key } from "./console_ask.js";
import { CHARTS, tiles } from "./console_charts.js";
import { draw, redraw } from "./console_plot.js";
import { experiments } from "./console_arms.js";
import { releases } from "./console_releases.js";

const AGAIN_MS = 2500, REPORT_MS = 60_000;
const seen = { process: "", points: [], every: 5 };
let paused = false, timer = 0;

function state(word, kind) {
  const pill = find("state");
  if (pill.textContent === word) return;
  pill.textContent = word;
  pill.dataset.state = kind;
}

function trouble(text) {
  const line = find("trouble");
  line.hidden = !text;
  if (line.textContent !== text) line.textContent = text;
}

function span(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} days`;
}

function parts(told) {
  const items = Object.entries(told.parts).map(([name, said]) => element("li", said === "ready" ? name : `${name}: ${said}`, said === "ready" ? "" : "not"));
  find("parts").replaceChildren(...(items.length ? items : [element("li", "nothing was looked at yet", "not")]));
}

function show() {
  const seconds = Number(find("window").value), newest = seen.points.at(-1)?.at ?? Date.now();
  const points = seen.points.filter((point) => point.at > newest - 1000 * seconds);
  find("charts-note").textContent = `the last ${seconds / 60} minutes, a point for every ${seen.every} s of this process; hover or use the arrow keys for the values at a moment`;
  find("now").replaceChildren(...tiles(points).map(([name, value, note, bad]) => {
    const tile = element("div", "", bad ? "bad" : "");
    tile.append(element("dt", name), element("dd", value), element("dd", note));
    return tile;
  }));
  draw(find("charts"), CHARTS, points, { seconds, newest, every: seen.every });
}

async function look() {
  const since = seen.points.at(-1)?.at ?? 0;
  const told = await ask("/v1/console", { since });
  if (seen.process && told.process !== seen.process) {
    Object.assign(seen, { process: told.process, points: [] });
    trouble(`Another process answers now (${told.process}): behind a load balancer, open each server's own address. What is drawn starts anew.`);
    return;
  }
  Object.assign(seen, { process: told.process, every: told.every_seconds });
  seen.points.push(...told.points);
  seen.points = seen.points.filter((point) => point.at > told.now - 1_800_000);
  const stale = seen.points.length && told.now - seen.points.at(-1).at > 4000 * told.every_seconds;
  const changing = told.parts.release === "changing";
  if (stale) state("Standing still", "not");
  else if (told.ready) state("Ready", "ready");
  else if (!Object.keys(told.parts).length) state("Starting", "waiting");
  else state(changing ? "Changing release" : "Not ready", changing ? "waiting" : "not");
  find("about").textContent = `Release ${told.model_version}${told.challenger ? `, challenged by ${told.challenger}` : ""} · process ${told.process}, up ${span(told.uptime_seconds)}`;
  if (told.points.length || !find("parts").children.length) {
    parts(told);
    show();
  }
  trouble(stale ? `The newest point is ${span((told.now - seen.points.at(-1).at) / 1000)} old: the process answers, but measures no more. Its log says why.` : "");
}

async function beat() {
  clearTimeout(timer);
  if (!paused) {
    try {
      await look();
    } catch (error) {
      if (error instanceof Away) state("Server away", "away");
      trouble(error instanceof Away ? "The server does not answer. What is drawn is what it said last; asking goes on." : error.message);
    }
  }
  timer = setTimeout(beat, AGAIN_MS);
}

find("pause").addEventListener("click", () => {
  paused = !paused;
  find("pause").setAttribute("aria-pressed", paused);
  find("pause").textContent = paused ? "Go on" : "Pause";
  if (paused) state("Paused", "waiting");
  else beat();
});
find("window").addEventListener("change", show);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { redraw(); show(); });
addEventListener("resize", () => { clearTimeout(show.timer); show.timer = setTimeout(show, 150); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) beat(); });

key.take();
const again = releases(beat);
beat();
experiments();
setInterval(() => { if (!paused && !document.hidden) { experiments(); again(); } }, REPORT_MS);
