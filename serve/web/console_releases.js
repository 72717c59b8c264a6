// Releases: what each is, and moving them with an admin's key. Everything is confirmed in words; what the server says is shown as it says it.

import { Away, ask, element, find, key } from "./console_ask.js";

const FOLLOW_MS = 1000;
let told = null, following = 0, moved = () => {};

const when = (ms) => new Date(ms).toLocaleString([], { dateStyle: "medium", timeStyle: "short", hour12: false });
const share = () => "its share of the users";

/** What each deed is called, and what it does, in words. */
const DEEDS = {
  check: (version) => [`Check ${version}`, "Every file is read and compared with its checksum. Where the release is loaded here, its models are asked what they were asked at export. Nothing moves; a large release takes a second a gigabyte."],
  promote: (version) => [`Promote ${version}`, `Make ${version} current, in place of ${told.current ?? "nothing"}. Every server that shares the folder follows within seconds, without dropping a request. ${told.current ?? "It"} stays on disk, and a rollback brings it back.`],
  challenge: (version) => [`Challenge with ${version}`, `Have ${version} answer ${share()} beside ${told.current}, in place of ${told.challenger ?? "no challenger"}. It is loaded beside the current release, and needs as much memory again.`],
  withdraw: () => [`Withdraw ${told.challenger}`, `${told.challenger} challenges no more: all users are answered by ${told.current}. The release stays on disk.`],
  rollback: () => [`Roll back to ${told.rollback_to}`, `Make ${told.rollback_to} current again, in place of ${told.current}. ${told.current} stays on disk; only promoting it brings it back.`],
};

function confirmed(deed, version) {
  const [title, text] = DEEDS[deed](version), dialog = find("confirm");
  find("confirm-title").textContent = `${title}?`;
  find("confirm-text").textContent = text;
  find("confirm-yes").textContent = title;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true }));
}

function say(text, kind) {
  const line = find("moved");
  line.hidden = !text;
  line.className = `notice ${kind}`;
  line.textContent = text;
}

async function act(deed, version, button) {
  if (!(await confirmed(deed, version))) return;
  const path = version === undefined ? `/v1/releases/${deed}` : `/v1/releases/${encodeURIComponent(version)}/${deed}`;
  button.disabled = true;
  say(deed === "check" ? `${version} is being checked …` : "", "");
  try {
    const answer = await ask(path, {}, "POST");
    if (deed === "check") say(`${version} ${answer.passed ? "is" : "is not"} all right: ${answer.said}`, answer.passed ? "good" : "bad");
    else say({ promote: `Current is now ${answer.current}.`, rollback: `Current is now ${answer.current}.`, challenge: `Challenger is now ${answer.challenger}.`, withdraw: "Nothing challenges now." }[deed], "good");
  } catch (error) {
    say(error.message, "bad");
  }
  button.disabled = false;
  await look();
}

function checked(release) {
  const cell = element("td"), { check } = release;
  if (release.error) cell.append(element("span", "Broken", "bad"), element("small", release.error));
  else if (!check) cell.append(element("span", "Not checked"), element("small", "since this process started"));
  else cell.append(element("span", check.passed ? (check.golden ? "Answers as at export" : "Whole") : "Failed", check.passed ? "good" : "bad"), element("small", `${check.by === "opening" ? "when it was opened" : "when asked"}, ${when(check.at)}: ${check.said}`));
  return cell;
}

function row(release) {
  const line = element("tr"), head = element("th", release.version), serves = element("td"), buttons = element("div", "", "do"), cell = element("td");
  head.scope = "row";
  if (release.role) serves.append(element("span", release.role, `role ${release.role}`));
  serves.append(element("small", release.serves.length ? `answers in the arm ${release.serves.join(" and ")} here` : release.role ? "not loaded here yet" : ""));
  const deeds = ["check", ...(release.role === "current" || release.error ? [] : ["promote"]), ...(release.role || release.error || !told.current ? [] : ["challenge"]), ...(release.role === "challenger" ? ["withdraw"] : [])];
  for (const deed of deeds) {
    const button = element("button", { check: "Check", promote: "Promote", challenge: "Challenge", withdraw: "Withdraw" }[deed]);
    button.type = "button";
    button.disabled = !key.get();
    button.setAttribute("aria-label", DEEDS[deed](release.version)[0]);
    button.addEventListener("click", () => act(deed, deed === "withdraw" ? undefined : release.version, button));
    buttons.append(button);
  }
  cell.append(buttons);
  const made = element("td", release.created_at ? when(Date.parse(release.created_at)) : "–");
  if (release.before) made.append(element("small", `after ${release.before}`));
  line.append(head, serves, made, element("td", release.items === null ? "–" : release.items.toLocaleString("en"), "number"), checked(release), cell);
  return line;
}

function progress() {
  const line = find("follows"), late = told.arms.filter(({ wanted, serving }) => wanted !== serving), linked = { champion: told.current, challenger: told.challenger };
  line.hidden = told.settled;
  const said = late.map(({ arm, wanted, serving, error }) => `${arm}: ${serving ?? "nothing"} → ${wanted ?? "nothing"}${error ? ` (${error})` : ""}`);
  const text = told.settled ? "" : `The fleet follows. ${said.join("; ") || Object.entries(linked).map(([arm, version]) => `${arm}: → ${version ?? "nothing"}`).join("; ")}`;
  line.className = `notice ${late.some(({ error }) => error) ? "bad" : ""}`;
  if (line.textContent !== text) line.textContent = text;
}

function drawn() {
  const held = document.activeElement?.closest?.("#releases-told") && [document.activeElement.getAttribute("aria-label")];
  find("releases-note").textContent = `${told.releases.length} in the folder, newest first; checks are those of this process`;
  find("releases-told").replaceChildren(...told.releases.map(row));
  find("rollback").disabled = !key.get() || !told.rollback_to;
  find("rollback-note").textContent = told.rollback_to ? `would make ${told.rollback_to} current again, in place of ${told.current}` : "Nothing was current before the current release, so there is nothing to go back to.";
  find("forget-key").hidden = !key.get();
  find("key").placeholder = key.get() ? "a key is kept" : "";
  progress();
  if (held) [...find("releases-told").querySelectorAll("button")].find((button) => button.getAttribute("aria-label") === held[0])?.focus();
}

async function look() {
  clearTimeout(following);
  try {
    const before = JSON.stringify(told), was = told?.settled ?? true;
    told = await ask("/v1/releases");
    if (before !== JSON.stringify(told)) drawn();
    if (!told.settled) following = setTimeout(look, FOLLOW_MS);
    else if (!was) moved();
  } catch (error) {
    if (error instanceof Away) following = setTimeout(look, 5 * FOLLOW_MS);
    else say(error.message, "bad");
  }
}

/** Show the releases, and give what shows them again; `changed` is called once the fleet followed. */
export function releases(changed) {
  moved = changed;
  find("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (find("key").value.trim()) key.keep(find("key").value.trim());
    find("key").value = "";
    if (told) drawn();
    moved();
    look();
  });
  find("forget-key").addEventListener("click", () => { key.forget(); if (told) drawn(); find("key").focus(); });
  find("rollback").addEventListener("click", () => act("rollback", undefined, find("rollback")));
  look();
  return look;
}
