// What is asked and what is open stands in the address, so that it can be shared, and the back button goes back.

const USUAL = { user_id: "", context: "homepage", hour: "", device: "", region: "", lambda: "0.7", diversity: "mmr", arm: "", item: "", why: "", quiz: "" };
const OPEN = ["item", "why", "quiz"];
const HOUR_MS = 3_600_000;

/** The state in the address. What is not there is as usual. */
export function read() {
  const told = new URLSearchParams(location.search);
  return Object.fromEntries(Object.entries(USUAL).map(([name, usual]) => [name, told.get(name) ?? usual]));
}

/** The address of the state with these changes. Changing what is asked closes nothing. */
export function address(changes) {
  const kept = Object.entries({ ...read(), ...changes }).filter(([name, value]) => value !== USUAL[name]);
  return kept.length ? `?${new URLSearchParams(kept)}` : location.pathname;
}

/** Go on to the state with these changes; back leads to the one before. How many steps lie behind what is open is kept with it. */
export function go(changes) {
  const before = read(), after = { ...before, ...changes };
  const steps = Object.fromEntries(OPEN.filter((name) => after[name]).map((name) => [name, before[name] ? history.state?.steps?.[name] && history.state.steps[name] + 1 : 1]));
  history.pushState({ steps }, "", address(changes));
}
/** Put right where we are, without a step that back would undo. */
export const amend = (changes) => history.replaceState(history.state, "", address(changes));

/** Close what is open: by going back to where it was not, or, where somebody came by a link, by opening the page beneath. */
export function close(name) {
  const steps = history.state?.steps?.[name];
  if (steps) history.go(-steps);
  else {
    amend({ [name]: "" });
    dispatchEvent(new PopStateEvent("popstate"));
  }
}

/** The parameters of the API for a state; `now` (ms UTC) is the server's, from which the next such hour is told. */
export function parameters(state, now) {
  const told = { user_id: state.user_id, lambda: state.lambda, diversity: state.diversity };
  if (state.context !== "homepage") told.context = state.context;
  for (const name of ["device", "region", "arm"]) if (state[name]) told[name] = state[name];
  if (state.hour !== "") {
    const day = now - (now % (24 * HOUR_MS));
    const at = day + Number(state.hour) * HOUR_MS;
    told.time = at < now ? at + 24 * HOUR_MS : at;
  }
  return told;
}

export const asked = (state) => Object.entries(state).filter(([name]) => !OPEN.includes(name)).map(([, value]) => value).join("\n");
/** Whether something is tried out: an hour, a place, a way to choose that are not the user's own. */
export const tried = (state) => ["hour", "device", "region", "lambda", "diversity", "arm"].some((name) => state[name] !== USUAL[name]);
