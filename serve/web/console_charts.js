// What is drawn: each chart with its unit, its window, what it means, and the section of docs/runbook.md that says what to do.

const FAST_S = 0.2, BOUND_S = 0.5;
const SOURCES = ["collaborative", "content", "trending", "popular", "editorial", "explore", "because", "similar", "begun"];
const FIRST = ["total", "waiting", "history", "user_tower", "sources", "filters", "ranker", "slate", "explain", "rows", "precomputed"];

const sum = (counts) => Object.values(counts).reduce((total, count) => total + count, 0);
const digits = (value, most = 3) => Number(value.toPrecision(most)).toLocaleString("en", { maximumFractionDigits: 6 });
const ms = (seconds, whole) => `${digits(1000 * seconds)}${whole ? " ms" : ""}`;
const percent = (share, whole) => `${digits(100 * share)}${whole ? " %" : ""}`;
const count = (value) => digits(value);
const perSecond = (value, whole) => `${digits(value)}${whole ? "/s" : ""}`;
const age = (seconds) => {
  for (const [unit, length] of [["y", 31_557_600], ["d", 86_400], ["h", 3600], ["min", 60]]) if (Math.abs(seconds) >= 1.5 * length) return `${digits(seconds / length, 2)} ${unit}`;
  return `${digits(seconds, 2)} s`;
};
const lag = (seconds) => (seconds >= 2 ? age(seconds) : ms(seconds, true));

/** The names that stand in a field of any point: those known first in their order, then the others as they came. */
function names(points, of, first = []) {
  const found = new Set(points.flatMap((point) => Object.keys(of(point))));
  return [...first.filter((name) => found.has(name)), ...[...found].filter((name) => !first.includes(name)).sort()];
}

const rates = (of, first) => (points) => names(points, of, first).map((name) => ({ name, values: points.map((point) => (of(point)[name] ?? 0) / point.seconds) }));
const shares = (of, first) => (points) => names(points, of, first).map((name) => ({ name, values: points.map((point) => (sum(of(point)) ? (of(point)[name] ?? 0) / sum(of(point)) : null)) }));
const arms = (of) => (points) => [...new Set(points.flatMap((point) => point.standing.map(({ arm }) => arm)))].flatMap((arm) => of(arm).map(([name, read]) => ({
  name, values: points.map((point) => { const one = point.standing.find((standing) => standing.arm === arm); return one ? read(one, point) : null; }),
})));
const percentiles = (points, of, prefix = "") => ["p50", "p95", "p99"].map((name) => ({ name: prefix + name, values: points.map((point) => of(point)?.[name] ?? null) }));
const totals = (points, of) => names(points, of).map((name) => ({ name, value: points.reduce((total, point) => total + (of(point)[name] ?? 0), 0) })).sort((one, other) => other.value - one.value);

export const CHARTS = [
  {
    id: "latency", title: "How long answers take", unit: "ms; percentiles of the last minute", say: ms, runbook: "TowersAnswersSlow", nothing: "No answers in the time shown.",
    means: "Half, 95 and 99 of a hundred answers were made within this time. Objectives: 95 of a hundred within 200 ms, 99 within 500 ms.",
    objectives: [{ value: FAST_S, label: "200 ms" }, { value: BOUND_S, label: "500 ms" }],
    choose: (points) => names(points, ({ latency }) => latency, FIRST), series: (points, stage) => percentiles(points, ({ latency }) => latency[stage]),
  },
  {
    id: "stages", title: "Where the time goes", unit: "ms; 95th percentile of each stage, of the last minute", say: ms, runbook: "TowersAnswersSlow", nothing: "No answers in the time shown.",
    means: "The stages of an answer in their order. A stage that grows alone names its part; waiting grows when more is asked than the cores can do.",
    series: (points) => names(points, ({ latency }) => latency, FIRST).filter((name) => name !== "total").map((name) => ({ name, values: points.map(({ latency }) => latency[name]?.p95 ?? null) })),
  },
  {
    id: "answers", title: "Answers by how they were made", unit: "answers a second, over 5 s", say: perSecond, runbook: "TowersNoTraffic", nothing: "No answers in the time shown.",
    means: "Brackets say what an answer was made without. “popular” is for users of whom nothing is known.", series: rates(({ answers }) => answers, ["personalised", "precomputed", "popular", "similar"]),
  },
  {
    id: "lacking", title: "Answers made without a part", unit: "answers a second, over 5 s", say: perSecond, runbook: "TowersFallbacks", nothing: "None: every answer in the time shown was whole.",
    means: "By the part that was late or away: a poorer page each, but a page.", series: rates(({ lacking }) => lacking),
  },
  {
    id: "precomputed", title: "Precomputed slates: used, and why not", unit: "requests a second, over 5 s", say: perSecond, runbook: null, nothing: "No requests in the time shown.",
    means: "“used” is the cache's hits. “none made”: run precompute. “did something since”, “active”: a live answer knows more.", series: rates(({ precomputed }) => precomputed, ["used"]),
  },
  {
    id: "proposed", title: "Who proposed candidates", unit: "% of proposals, over 5 s", say: percent, most: 0, runbook: "TowersSourceMissing", nothing: "No live answers in the time shown.",
    means: "Each source's share of all proposals; an item that two proposed counts twice.", series: shares(({ proposed }) => proposed, SOURCES),
  },
  {
    id: "shown", title: "Whose candidates were shown", unit: "% of what was shown, over 5 s", say: percent, runbook: "TowersSourceMissing", nothing: "Nothing was shown in the time shown.",
    means: "A source that proposes much and is shown little is not what the ranker likes.", series: shares(({ shown }) => shown, SOURCES),
  },
  {
    id: "dropped", title: "What was left out, and why", runbook: "TowersFallbacks", means: "Candidates that a filter or a rule kept off the page. “candidates beyond the limit” is the merge's cut.",
    bars: (points) => {
      const made = points.reduce((total, { answers }) => total + sum(answers), 0);
      const rows = totals(points, ({ dropped }) => dropped).slice(0, 9).map(({ name, value }) => ({ name, value, said: made ? digits(value / made) : count(value) }));
      return { unit: "candidates an answer, mean over the time shown", rows, nothing: "Nothing was left out in the time shown." };
    },
  },
  {
    id: "missing", title: "Sources late or failed", runbook: "TowersSourceMissing", means: "How often an answer went without a source, because it was late or failed.",
    bars: (points) => ({ unit: "answers, sum over the time shown", rows: totals(points, ({ missing }) => missing).map((one) => ({ ...one, said: count(one.value) })), nothing: "None: every source that was asked was there." }),
  },
  {
    id: "coverage", title: "Coverage", unit: "% of the catalogue shown within the last hour, by this process", say: percent, runbook: null, nothing: "Nothing was shown yet.",
    means: "Different items shown, of all there are. It rises for an hour after a start; a fall means that everybody sees the same.",
    series: arms((arm) => [[arm, ({ coverage }) => coverage]]),
  },
  {
    id: "freshness", title: "How old what is shown is", unit: "age, of items shown within the last hour", say: age, runbook: "TowersReleaseOld", nothing: "Nothing of known age was shown yet.",
    means: "Ages since items were posted or came out: the median, and the newest.",
    series: arms((arm) => [[`${arm}: median`, ({ median_age_s }) => median_age_s], [`${arm}: newest`, ({ newest_age_s }) => newest_age_s]]),
  },
  {
    id: "release", title: "How old the releases are", unit: "age since export", say: age, runbook: "TowersReleaseOld", nothing: "No release is loaded.",
    means: "The models know nothing of what happened since, but by the live counts and histories.",
    series: arms((arm) => [[arm, ({ created_s }, { at }) => (created_s === null ? null : at / 1000 - created_s)]]),
  },
  {
    id: "lag", title: "How late events are", unit: "percentiles of the last minute", say: lag, runbook: "TowersEventsLate", nothing: "No events in the time shown.",
    means: "“stored”: from an event's own time until it was on the disk, so senders' delays too. “counted”: from there until trending and popular knew it; histories know it at once.",
    series: (points) => [...percentiles(points, ({ stored_lag }) => stored_lag, "stored ").slice(0, 2), ...percentiles(points, ({ known_lag }) => known_lag, "counted ").slice(0, 2)],
  },
  {
    id: "counts", title: "Age of the live counts", unit: "since all that was stored had been counted", say: lag, runbook: "TowersLiveCountsStandStill", nothing: "No release is loaded.",
    means: "About a second while all is well; it grows while the store is away.", series: (points) => [{ name: "age", values: points.map(({ live_counts_age_s }) => live_counts_age_s) }],
  },
  {
    id: "recall", title: "Index against exact search", unit: "% of the exact 100 nearest found; mean of the last 10 minutes", say: percent, least: 0, most: 1, runbook: "TowersIndexRecallLow", nothing: "No query was judged yet: a hundredth of them is (judged= in conf/serve.yaml).",
    means: "A sample of live queries is searched exactly too, off the request path.", series: (points) => [{ name: "found", values: points.map(({ recall }) => recall.mean) }],
  },
  {
    id: "waiting", title: "Under way, and waiting", unit: "requests and slates, at each moment", say: count, runbook: "TowersSlatesLost",
    means: "Requests being answered, those of them that wait for their turn at the models, and slates that wait to be logged.",
    series: (points) => [
      { name: "answering", values: points.map(({ standing }) => standing.reduce((total, { in_flight }) => total + in_flight, 0)) },
      { name: "waiting for a turn", values: points.map(({ turns_waiting }) => turns_waiting) }, { name: "slates to log", values: points.map(({ slates_waiting }) => slates_waiting) },
    ],
  },
  {
    id: "arm", title: "Answers by arm", unit: "answers a second, over 5 s", say: perSecond, runbook: "TowersSampleRatioMismatch", nothing: "No answers in the time shown.",
    means: "A challenger gets its share of users, so only about its share of answers.", series: rates(({ arms: of }) => of, ["champion", "challenger"]),
  },
  {
    id: "events", title: "Events, and what was refused or lost", unit: "a second, over 5 s", say: perSecond, runbook: "TowersRefusing", nothing: "No events, and nothing was refused or lost.",
    means: "Events stored and repeated (sent twice, kept once); requests refused, by HTTP status; slates that could not be logged.",
    series: (points) => [
      ...rates(({ events }) => events)(points).map((one) => ({ ...one, name: `events ${one.name}` })), ...rates(({ refused }) => refused)(points).map((one) => ({ ...one, name: `refused ${one.name}` })),
      ...rates(({ lost }) => lost)(points).map((one) => ({ ...one, name: `lost: ${one.name}` })),
    ],
  },
];

/** The few numbers that say whether all is well: name, value, window, and whether it is bad. */
export function tiles(points) {
  const last = points.at(-1);
  if (!last) return [["Answers", "–", "no point yet: the first comes within seconds", false]];
  const minute = points.filter(({ at }) => at > last.at - 60_000), seconds = minute.reduce((total, point) => total + point.seconds, 0);
  const all = (of) => minute.reduce((total, point) => total + of(point), 0);
  const made = all(({ answers }) => sum(answers)), fell = all(({ fallbacks }) => fallbacks), refused = all(({ refused: by }) => sum(by));
  const asked = all(({ precomputed }) => sum(precomputed)), used = all(({ precomputed }) => precomputed.used ?? 0);
  const total = last.latency.total, champion = last.standing.find(({ arm }) => arm === "champion");
  const none = (value, say) => (value === null || value === undefined ? "–" : say(value, true));
  return [
    ["Answers", perSecond(made / seconds, true), "last minute", false],
    ["Median time", none(total?.p50, ms), "last minute", false],
    ["95th percentile", none(total?.p95, ms), "last minute; objective 200 ms", (total?.p95 ?? 0) > FAST_S],
    ["99th percentile", none(total?.p99, ms), "last minute; objective 500 ms", (total?.p99 ?? 0) > BOUND_S],
    ["Fallbacks", made ? percent(fell / made, true) : "–", "made without a part, last minute", fell > 0.01 * made],
    ["Cache hits", asked ? percent(used / asked, true) : "–", "precomputed, last minute", false],
    ["Refused", perSecond(refused / seconds, true), "last minute", false],
    ["Coverage", none(champion?.coverage, percent), "of the catalogue, last hour", false],
    ["Live counts", none(last.live_counts_age_s, lag), "behind the store, now", (last.live_counts_age_s ?? 0) > 30],
    ["Index recall", none(last.recall.mean, percent), `${last.recall.queries} queries, last 10 min`, last.recall.mean !== null && last.recall.mean < 0.9],
  ];
}
