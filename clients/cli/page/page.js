// The page: six fans' phones, the match above them, the control desk below. Every phone is a real
// WebSocket to the gateway; what the page itself knows comes from /api.

import { backOffMs } from "/fan-socket.js";
import { layDesk, post, showReplay, words } from "/desk.js";
import { ORIGINS, addPhone, light } from "/phone.js";

/** Entries of the history; older ones go. */
const HISTORY_MAX = 50;
/** A change that some phones do not show by then is said to be incomplete. */
const INCOMPLETE_AFTER_MS = 3_000;
const LIVE = "Live";
const NOT_CONNECTED = "Not connected, trying again";
const element = (id) => document.getElementById(id);
/** The newest change, and when each phone had it on its screen. */
let change = { version: null, sequence: "", timed: false, at: 0, shownAt: new Map(), entry: null };
/** What each phone shows. */
const shown = new Map();
const sources = new Map();
const connected = new Set();
let isLive = false;
/** Whether the next state is what was there before the page looked: nobody saw how long it took. */
let isFirst = true;
let page;

start();

async function start() {
  page = await known();
  const { title, home, away } = page.match;
  element("title").textContent = title;
  element("home").textContent = home;
  element("away").textContent = away;
  layDesk(page.match);
  for (const fan of page.fans) {
    addPhone(element("phones"), fan, {
      gateway: page.gateway,
      contentId: page.content_id,
      onSet: (set) => onScreen(fan, set),
      onTap: async (set, { item_id }) =>
        (await post("tap", { consumer_id: fan.consumer_id, item_id, recommendation_id: set.recommendation_id ?? "" })) === null,
      onConnection: (is) => {
        connected[is ? "add" : "delete"](fan.consumer_id);
        sayConnection();
      },
    });
  }
  follow(0);
}

/** What does not change while the page is open: the match, the fans, where their gateway is. */
async function known() {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await (await fetch("/api/page")).json();
    } catch {
      sayLink(NOT_CONNECTED);
      await new Promise((resolve) => setTimeout(resolve, backOffMs(attempt)));
    }
  }
}

/** What the page is told: the state, the replay and the figures, as server-sent events. */
function follow(attempt) {
  const live = new EventSource("/api/live");
  live.onopen = () => {
    attempt = 0;
    isLive = true;
    isFirst = true;
    sayConnection();
  };
  live.onerror = () => {
    isLive = false;
    sayConnection();
    for (const id of ["fans", "pushes"]) element(id).textContent = "–";
    // The browser tries again by itself, unless it was refused.
    if (live.readyState === EventSource.CLOSED) setTimeout(() => follow(attempt + 1), backOffMs(attempt));
  };
  live.addEventListener("state", ({ data }) => showState(JSON.parse(data)));
  live.addEventListener("replay", ({ data }) => showReplay(JSON.parse(data)));
  live.addEventListener("figures", ({ data }) => showFigures(JSON.parse(data)));
}

function sayConnection() {
  const missing = page.fans.length - connected.size;
  const phones = missing === 1 ? "1 phone" : `${missing} phones`;
  sayLink(!isLive ? NOT_CONNECTED : missing ? `${phones} not connected` : LIVE);
}

function sayLink(text) {
  const link = element("link");
  if (link.textContent === text) return;
  link.textContent = text;
  link.parentElement.classList.toggle("away", text !== LIVE);
}

function showState(state) {
  const timed = !isFirst;
  isFirst = false;
  if (!state) {
    element("event").textContent = "No event yet";
    for (const id of ["score", "clock"]) element(id).textContent = "–";
    element("what").textContent = "";
    change = { version: null, sequence: "", timed: false, at: 0, shownAt: new Map(), entry: null };
    return;
  }
  const { version, sequence, changed_at_ms, attributes } = state;
  const score = attributes.display_score ?? "–";
  const { match_event = "NONE", match_timing = "no event" } = attributes;
  // Where nothing happens the phase says more.
  const event = words(match_event === "NONE" ? match_timing : match_event);
  if (element("score").textContent !== score) {
    element("score").textContent = score;
    light(element("score"));
  }
  element("clock").textContent = attributes.display_clock ?? "";
  element("event").textContent = event;
  element("what").textContent = attributes.display_text ?? "";
  if (version === change.version) {
    change.at = changed_at_ms;
    count();
    return;
  }
  light(element("event"));
  change = { version, sequence, timed, at: changed_at_ms, shownAt: new Map(), entry: addHistory(state, event) };
  const mine = change;
  if (timed) setTimeout(() => mine === change && sayIncomplete(), INCOMPLETE_AFTER_MS);
  for (const [fan, { set, at }] of shown) noteShown(fan, set, at);
  element("announce").textContent = `${attributes.display_clock ?? ""} ${event}. ${attributes.display_text ?? ""}`;
  count();
}

/** A set has been put on a phone: it counts once the frame that shows it is drawn. */
function onScreen(fan, set) {
  countSource(set);
  requestAnimationFrame(() =>
    setTimeout(() => {
      const at = Date.now();
      shown.set(fan.consumer_id, { set, at });
      noteShown(fan.consumer_id, set, at);
      count();
    }),
  );
}

function noteShown(fan, { version, sequence = "" }, at) {
  // The same version may have been there before: only what is no older than the change is of it.
  if (version !== change.version || sequence < change.sequence || change.shownAt.has(fan)) return;
  change.shownAt.set(fan, at);
}

function count() {
  if (!change.timed || change.shownAt.size < page.fans.length) return;
  const ms = Math.max(0, Math.max(...change.shownAt.values()) - change.at);
  const text = `${ms} ms`;
  element("last").textContent = text;
  if (change.entry) change.entry.querySelector(".took").textContent = text;
}

function sayIncomplete() {
  const screens = change.shownAt.size;
  if (screens < page.fans.length && change.entry) change.entry.querySelector(".took").textContent = `${screens} of ${page.fans.length}`;
}

function addHistory({ attributes }, event) {
  const entry = document.createElement("li");
  const part = (name, text, kind = "") => {
    const made = document.createElement(name);
    made.textContent = text;
    made.className = kind;
    return made;
  };
  entry.append(
    part("time", attributes.display_clock ?? ""),
    part("b", `${event} ${attributes.match_event === "GOAL" ? (attributes.display_score ?? "") : ""}`),
    part("span", "", "took"),
    part("p", attributes.display_text ?? ""),
  );
  const list = element("history");
  list.prepend(entry);
  while (list.childElementCount > HISTORY_MAX) list.lastElementChild.remove();
  return entry;
}

function showFigures({ fans, pushes_per_second }) {
  const here = document.createElement("small");
  here.textContent = `${Math.min(fans, connected.size)} on this page`;
  element("fans").replaceChildren(fans.toLocaleString("en"), here);
  element("pushes").textContent = pushes_per_second.toLocaleString("en", { maximumFractionDigits: 1 });
}

function countSource({ origin, freshness }) {
  if (!origin) return;
  const source = `${ORIGINS[origin] ?? origin}, ${freshness}`;
  sources.set(source, (sources.get(source) ?? 0) + 1);
  const all = [...sources.values()].reduce((sum, part) => sum + part, 0);
  const rows = [...sources].sort(([, a], [, b]) => b - a).slice(0, 3);
  element("sources").replaceChildren(
    ...rows.map(([name, part]) => {
      const row = document.createElement("span");
      const share = document.createElement("span");
      const bar = document.createElement("progress");
      share.textContent = `${Math.round((100 * part) / all)} %`;
      bar.max = all;
      bar.value = part;
      bar.setAttribute("aria-label", name);
      row.append(name, share, bar);
      return row;
    }),
  );
}
