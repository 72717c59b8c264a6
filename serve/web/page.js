// The page people look at: asks the API of the same server, and puts every word of the answer in by textContent.

const find = (id) => document.getElementById(id);
const form = find("ask");

async function call(path, options) {
  const response = await fetch(path, options);
  const body = await response.json();
  if (!response.ok) throw new Error(body.detail);
  return body;
}

function element(tag, text, className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

function hueOf(text) {
  let hue = 7;
  for (const letter of text) hue = (hue * 31 + letter.codePointAt(0)) % 360;
  return hue;
}

function card(item) {
  const made = find("card").content.firstElementChild.cloneNode(true);
  const poster = made.querySelector(".poster");
  poster.style.setProperty("--hue", hueOf(item.item_id));
  poster.textContent = [...item.title].slice(0, 1).join("").toUpperCase();
  made.querySelector(".title").textContent = item.title;
  made.querySelector(".reason").textContent = item.reason;
  if (item.score === null) made.querySelector(".score").remove();
  else {
    made.querySelector("meter").value = item.score;
    made.querySelector(".number").textContent = item.score.toFixed(2);
  }
  made.addEventListener("click", () => open(item));
  return made;
}

function shelves(recommendations) {
  const rows = new Map();
  for (const item of recommendations) rows.set(item.row, [...(rows.get(item.row) ?? []), item]);
  return [...rows].map(([name, items]) => {
    const section = document.createElement("section");
    const cards = element("div", "", "cards");
    cards.append(...items.map(card));
    section.append(element("h2", name), cards);
    return section;
  });
}

function notices(answer) {
  const said = [];
  if (answer.answered_by === "popular") said.push("Nothing is known of this user yet: this is what is popular, for nobody in particular.");
  else if (!["personalised", "precomputed"].includes(answer.answered_by)) said.push(`Answered by: ${answer.answered_by}.`);
  if (!answer.recommendations.length) said.push("There is nothing left to show.");
  return said.map((text) => element("p", text, "notice"));
}

function about(answer) {
  const stages = Object.entries(answer.stage_ms).map(([name, ms]) => `${name} ${ms.toFixed(1)}`).join(" · ");
  const dropped = Object.entries(answer.dropped).map(([why, count]) => `${why}: ${count}`).join(", ");
  find("about").textContent =
    `Release ${answer.model_version} · ${answer.answered_by} · ${answer.generated_in_ms.toFixed(1)} ms (${stages})` + (dropped ? ` · left out: ${dropped}` : "");
}

async function show() {
  const slate = find("slate");
  slate.setAttribute("aria-busy", "true");
  const query = new URLSearchParams(new FormData(form));
  history.replaceState(null, "", `?${query}`);
  for (const sample of find("samples").children) sample.setAttribute("aria-current", sample.textContent === form.user_id.value);
  try {
    const answer = await call(`/v1/recommendations?${query}&count=40`);
    slate.replaceChildren(...notices(answer), ...shelves(answer.recommendations));
    about(answer);
  } catch (error) {
    slate.replaceChildren(element("p", error.message, "notice"));
  }
  slate.setAttribute("aria-busy", "false");
}

async function open(item) {
  find("detail-title").textContent = item.title;
  find("detail-reason").textContent = item.reason;
  const dialog = find("detail");
  dialog.dataset.itemId = item.item_id;
  find("similar").replaceChildren(element("p", "…"));
  if (!dialog.open) dialog.showModal();
  try {
    const answer = await call(`/v1/items/${encodeURIComponent(item.item_id)}/similar?count=12`);
    if (dialog.dataset.itemId === item.item_id) find("similar").replaceChildren(...answer.recommendations.map(card));
  } catch (error) {
    find("similar").replaceChildren(element("p", error.message, "notice"));
  }
}

function toast(text) {
  const line = find("toast");
  line.textContent = text;
  line.hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => (line.hidden = true), 4000);
}

async function tell(eventType) {
  const dialog = find("detail");
  const event = { user_id: form.user_id.value, item_id: dialog.dataset.itemId, event_type: eventType };
  try {
    await call("/v1/events", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(event) });
    dialog.close();
    toast("Noted. The page below already knows.");
    await show();
  } catch (error) {
    toast(error.message);
  }
}

async function start() {
  const asked = new URLSearchParams(location.search);
  for (const name of ["user_id", "context", "lambda"]) if (asked.has(name)) form.elements[name].value = asked.get(name);
  const { user_ids } = await call("/v1/users?count=12");
  find("users").replaceChildren(...user_ids.map((id) => Object.assign(document.createElement("option"), { value: id })));
  find("samples").replaceChildren(...user_ids.map((id) => {
    const button = element("button", id);
    button.type = "button";
    button.addEventListener("click", () => { form.user_id.value = id; show(); });
    return button;
  }));
  if (!form.user_id.value && user_ids.length) form.user_id.value = user_ids[0];
  if (form.user_id.value) await show();
  else find("slate").setAttribute("aria-busy", "false");
}

form.addEventListener("submit", (event) => { event.preventDefault(); show(); });
form.addEventListener("change", (event) => { if (event.target.name !== "user_id") show(); });
find("detail").addEventListener("click", (event) => {
  if (event.target === find("detail") || event.target.matches("[data-close]")) find("detail").close();
  if (event.target.dataset.event) tell(event.target.dataset.event);
});
start();
