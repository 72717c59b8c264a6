// The page as a whole: asks for what the address says, draws it, and does what is pressed.

import { render } from "./vendor/lit-html/lit-html.js";
import { aborted, ask, Away, itemPath, key, latest, userPath } from "./api.js";
import { bar } from "./bar.js";
import { judge, known, remember } from "./cards.js";
import { empty, footer, intro } from "./frame.js";
import { itemPage } from "./item.js";
import { keyNote } from "./key.js";
import { again, beginQuiz, keyed } from "./quiz.js";
import { changes, more, rove, settle, shelves, standing, stops, summary, turn } from "./rows.js";
import { announce, toast, told, trouble } from "./say.js";
import { search } from "./search.js";
import { closable, follow, sheet, trail } from "./sheets.js";
import { amend, asked, go, parameters, read, tried } from "./state.js";
import { whyDrawer } from "./why.js";

const COUNT = 40, MORE = 24, BY_ITSELF = 3; // items of a page, of each further one, and how many of those come without being asked for
const find = (id) => document.getElementById(id);
const page = { state: read(), answer: null, query: null, marks: new Map(), profile: null, service: null, users: [], wrong: null, trouble: null };
const further = { items: [], next: null, busy: false, loaded: 0, failed: "" };
const turns = { page: latest(), profile: latest(), more: latest(), item: latest(), why: latest() };
let asking, pause = 0;

// ---- what is asked

/** The parameters of the page. What is only tried out is asked for as a preview of the user's arm: it would count as shown, and rest. */
function wanted() {
  const { state, profile: of, service } = page, query = parameters(state, service?.now ?? Date.now());
  if (tried(state) && !query.arm) query.arm = of?.user_id === state.user_id ? of.arm : "champion";
  return query;
}

/** Ask for the page; `said` is put before what changed. True where it came. */
async function show(said = "") {
  const signal = turns.page();
  find("rows").setAttribute("aria-busy", "true");
  clearTimeout(asking);
  try {
    if (page.state.hour !== "" && !page.service) page.service = await ask("/v1/service");
    const query = wanted();
    const answer = await ask("/v1/recommendations", { query: { ...query, count: COUNT }, signal });
    const before = page.answer?.recommendations.map(({ item_id }) => item_id);
    const moved = before && (said || page.compare) ? changes(before, answer.recommendations.map(({ item_id }) => item_id)) : new Map();
    Object.assign(page, { answer, query, marks: moved, trouble: null, wrong: null, compare: false });
    pause = 0;
    await refill(answer.next, query, signal);
    draw();
    if (said) toast(`${said} ${summary(moved)}.`.replace(/ (\d|n)/, (_, first) => ` Now ${first}`));
    else if (before) announce(`Another page: ${summary(moved)}.`);
    return true;
  } catch (error) {
    if (aborted(error)) return false;
    await failed(error);
    return false;
  } finally {
    if (!signal.aborted) find("rows").setAttribute("aria-busy", "false");
  }
}

/** Say what went wrong where the page stands, and where it may pass by itself, ask again. */
async function failed(error) {
  page.trouble = await told(error);
  page.wrong = error.field ?? null;
  draw();
  if (!["away", "parts", "wait"].includes(page.trouble.kind)) return;
  pause = Math.min(20_000, pause ? pause * 1.7 : 1_000);
  asking = setTimeout(retry, page.trouble.after ? page.trouble.after * 1_000 : pause);
}

async function retry() {
  clearTimeout(asking);
  const was = page.trouble;
  if (!page.users.length || !page.service) await about().catch(() => null);
  if ((await show()) && was) toast("The server is back.");
  if (page.answer) profile();
}

/** What is known of the user, beside the page. */
async function profile() {
  try {
    page.profile = await ask(userPath(page.state.user_id), { signal: turns.profile() });
    page.profile.history.forEach(remember);
  } catch (error) {
    if (aborted(error)) return;
    page.profile = null; // the page stands without; what it could not tell is not worth a second panel
  }
  draw();
}

/** As much behind the rows as was there before, of the new page. */
async function refill(next, query, signal) {
  const pages = further.loaded;
  let items = [];
  for (let turn = 0; turn < pages && next; turn += 1) {
    const answer = await ask("/v1/recommendations", { query: { ...query, count: MORE, cursor: next }, signal });
    [items, next] = [[...items, ...answer.recommendations], answer.next];
  }
  turns.more();
  Object.assign(further, { items, next, busy: false, failed: "" });
}

async function showMore() {
  if (further.busy || !further.next) return;
  Object.assign(further, { busy: true, failed: "" });
  draw();
  try {
    const answer = await ask("/v1/recommendations", { query: { ...page.query, count: MORE, cursor: further.next }, signal: turns.more() });
    Object.assign(further, { items: [...further.items, ...answer.recommendations], next: answer.next, loaded: further.loaded + 1 });
    announce(`${answer.recommendations.length} more titles`);
  } catch (error) {
    if (aborted(error)) return;
    further.failed = (await told(error)).text;
  }
  further.busy = false;
  draw();
}

async function about() {
  const [service, users] = await Promise.all([ask("/v1/service"), ask("/v1/users", { query: { count: 12 } })]);
  Object.assign(page, { service, users: users.user_ids });
}

// ---- what is drawn

function draw() {
  const { answer, state } = page, rows = find("rows");
  const stood = standing(rows), way = trail(document.activeElement);
  document.title = state.user_id ? `Towers · ${state.user_id}` : "Towers";
  render(bar(state, page), find("bar"));
  render(intro({ ...page, tried: tried(state) }), find("intro"));
  render(trouble(page.trouble), find("trouble"));
  if (answer) {
    rows.querySelectorAll(".bones").forEach((bone) => bone.remove());
    render(answer.recommendations.length ? shelves(answer.recommendations, { user_id: state.user_id, marks: page.marks }) : empty(), rows);
    render(more({ ...further, user_id: state.user_id }), find("more"));
    render(footer(answer), find("about"));
    stops(find("main"));
    settle(rows, stood);
  }
  if (way.strip && !way.element.isConnected && !document.querySelector("dialog[open]")) follow(way);
}

// ---- what is open over the page

async function openItem(item_id) {
  const signal = turns.item(), seen = { item: known(item_id) ?? { item_id, title: item_id, genres: [] }, similar: null };
  const put = () => {
    const place = page.answer?.recommendations.findIndex((one) => one.item_id === item_id) ?? -1;
    render(itemPage(seen.item, { ...seen, user_id: page.state.user_id, shown: page.answer?.recommendations[place], place: place + 1 }), find("item"));
    stops(find("item"));
  };
  open.put = put;
  put();
  await Promise.all([
    ask(itemPath(item_id), { signal }).then((item) => { remember(item); seen.item = item; }),
    ask(itemPath(item_id, "/similar"), { query: { count: 12 }, signal }).then(({ recommendations }) => { seen.similar = recommendations; }),
  ]).catch(async (error) => { if (!aborted(error)) seen.failed = await told(error); });
  if (!signal.aborted) put();
}

async function openWhy(item_id) {
  const signal = turns.why(), user_id = page.state.user_id, seen = { item: known(item_id) ?? { item_id, title: item_id, genres: [] }, told: null };
  const put = () => render(whyDrawer(seen.item, { ...seen, user_id }), find("why"));
  put();
  try {
    const query = { ...(page.query ?? wanted()), count: COUNT, explain: item_id };
    const [why, item] = await Promise.all([ask("/v1/explanations", { query, signal }), known(item_id)?.genres ?? ask(itemPath(item_id), { signal })]);
    if (!known(item_id)) remember(item);
    Object.assign(seen, { told: why, item: known(item_id) });
  } catch (error) {
    if (aborted(error)) return;
    seen.failed = await told(error);
  }
  put();
  announce(seen.told?.verdict ?? seen.failed.text);
}

const open = { item: openItem, why: openWhy, quiz: () => beginQuiz(page.answer?.answered_by.startsWith("popular") ? page.state.user_id : "", theirs), put: null };

/** Open and close what the address says. */
function sheets() {
  for (const name of ["item", "why", "quiz"]) {
    const wanted = page.state[name], changed = sheet(name, wanted !== "") || (wanted && find(name).dataset.of !== wanted);
    find(name).dataset.of = wanted;
    if (changed) open[name](wanted);
  }
}

function theirs(user_id) {
  sheet("quiz", false);
  find("quiz").dataset.of = "";
  amend({ quiz: "", item: "", why: "", user_id });
  arrive();
  toast(`This is your page, ${user_id}.`);
}

/** The address changed: ask for another page where it asks for one, and open and close what it says. */
function arrive() {
  const before = page.state;
  page.state = read();
  if (!page.state.user_id) page.state.user_id = page.users[0] ?? "";
  if (asked(before) !== asked(page.state)) {
    page.compare = true;
    if (before.user_id !== page.state.user_id) {
      Object.assign(further, { items: [], next: null, loaded: 0 });
      profile();
    }
    show();
  }
  draw();
  sheets();
}

const change = (changes, how = go) => { how(changes); arrive(); };

// ---- what is done

async function tell(item, act) {
  const { user_id, device } = page.state, { liked_rating: rating } = page.service ?? (page.service = await ask("/v1/service"));
  const event = { user_id, item_id: item.item_id, ...(act === "like" ? { event_type: "rate", rating } : { event_type: act }), ...(device && { device }), ...(page.answer && !page.query.arm && { request_id: page.answer.request_id }) };
  await ask("/v1/events", { body: event });
  judge(user_id, item.item_id, act);
  open.put?.();
  const words = { like: "You like", not_interested: "Not for you:", complete: "You watched" }[act];
  await Promise.all([show(`${words} ${item.title}.`), profile()]);
}

const DOES = {
  item: (item) => change({ item: item.item_id, why: "" }),
  why: (item) => change({ why: item.item_id }),
  tell: (item, button) => tell(item, button.dataset.act),
  user: (_, button) => change({ user_id: button.dataset.user }),
  quiz: () => change({ quiz: "new", item: "", why: "" }),
  key: () => { keyNote(keyChanged); sheet("key", true); },
  more: showMore,
  retry,
  reset: () => change({ hour: "", device: "", region: "", lambda: "0.7", diversity: "mmr", arm: "", context: "homepage", item: "", why: "", user_id: page.users[0] ?? page.state.user_id }),
  clear: () => { page.marks = new Map(); draw(); },
  scroll: (_, button) => turn(button),
  skip: () => find("main").focus(), // without the fragment, to which going back would return the focus
  "quiz-again": again,
};

function keyChanged() {
  sheet("key", false);
  toast(key.get() ? "The key is used from now on." : "The key is forgotten.");
  retry();
}

addEventListener("click", async (event) => {
  const button = event.target.closest("[data-do]");
  if (!button || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  const item = known(button.closest("[data-item]")?.dataset.item);
  try {
    await DOES[button.dataset.do](item, button);
  } catch (error) {
    const what = await told(error);
    toast(`${what.title}. ${what.kind === "away" ? "Nothing was noted." : what.text}`);
    if (what.kind === "key") DOES.key();
  }
});

function form(event) {
  const { name, value } = event.target;
  if (!event.target.closest("#asked") || !name) return;
  if (event.type === "change" && name !== "lambda") change({ [name]: value.trim() });
  if (event.type === "input" && name === "lambda") {
    page.state = { ...page.state, lambda: value };
    draw();
    clearTimeout(form.soon);
    form.soon = setTimeout(() => { page.state = { ...page.state, lambda: "" }; change({ lambda: value }, amend); }, 140);
  }
}

find("bar").addEventListener("change", form);
find("bar").addEventListener("input", form);
find("bar").addEventListener("submit", (event) => event.preventDefault());
addEventListener("popstate", arrive);
addEventListener("online", retry);
find("quiz").addEventListener("keydown", keyed);
for (const name of ["item", "why", "quiz"]) closable(name);
closable("key", () => sheet("key", false));
for (const name of ["main", "item"]) rove(find(name));
search(find("search"), (item_id, how) => change({ [how]: item_id }));
new IntersectionObserver(([seen]) => { if (seen.isIntersecting && further.loaded < BY_ITSELF && page.answer) showMore(); }, { rootMargin: "300px" }).observe(find("about"));

async function start() {
  key.take();
  draw();
  const told = about();
  if (!page.state.user_id) {
    try {
      await told;
    } catch (error) {
      return failed(error);
    }
    page.state.user_id = page.users[0] ?? "";
  } else told.then(draw, () => null); // the page itself will say what is wrong
  if (page.state.user_id) await Promise.all([show(), profile()]);
  else change({ quiz: "new" }, amend);
  sheets();
}

start();
