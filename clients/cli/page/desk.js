// The control desk and the match's timeline: what can be done to the match, by hand. Decides
// nothing; what came of it arrives with the state.

/** Events that the match may not hold, in the words of the event table. */
const MORE_EVENTS = ["PENALTY", "FREE-KICK", "YELLOW-CARD", "INJURY", "THROW"];
const TIMINGS = ["PRE-MATCH", "FIRST-HALF-1", "FIRST-HALF-2", "FIRST-HALF-3", "INTERVAL", "SECOND-HALF-1", "SECOND-HALF-2", "SECOND-HALF-3", "OVER-TIME", "POST_MATCH"];
const SPEEDS = [15, 30, 60, 120, 300, 600];
const element = (id) => document.getElementById(id);
let moments = [];
let scrubbing = false;

/** `YELLOW-CARD` as people write it. */
export function words(name) {
  const text = name.toLowerCase().replaceAll(/[-_]/g, " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** Asks the page's server to do something. Answers `null`, or what is wrong. */
export async function post(what, body) {
  try {
    const answer = await fetch(`/api/${what}`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
    if (answer.ok) return null;
    const { error } = await answer.json();
    return error.field ? `${error.field} ${error.message}` : error.message;
  } catch {
    return "Touchline cannot be reached";
  }
}

/** Lays the keys, the form and the timeline of a match. */
export function layDesk(match) {
  moments = match.moments;
  layKeys(match);
  layForm();
  layTimeline();
}

function layKeys({ home, away }) {
  const named = moments.map(({ match_event }) => match_event).filter((event) => event !== "GOAL" && event !== "NONE");
  const events = [...new Set([...MORE_EVENTS, ...named])];
  element("keys").replaceChildren(
    key("Goal", home, { match_event: "GOAL", scorer: "home", text: `Goal for ${home}` }, "goal"),
    key("Goal", away, { match_event: "GOAL", scorer: "away", text: `Goal for ${away}` }, "goal"),
    ...events.map((event) => key(words(event), "", { match_event: event, text: words(event) })),
  );
  element("events").replaceChildren(...["GOAL", ...events].map((event) => new Option(event)));
}

function key(label, side, event, kind = "") {
  const button = document.createElement("button");
  button.type = "button";
  button.className = kind;
  button.dataset.event = event.match_event;
  button.append(label);
  if (side) {
    const small = document.createElement("small");
    small.textContent = side;
    button.append(small);
  }
  button.addEventListener("click", () => fire(event));
  return button;
}

function layForm() {
  const form = element("any");
  const phases = [...new Set([...TIMINGS, ...moments.map(({ match_timing }) => match_timing)])];
  form.elements.match_timing.append(new Option("as it is", ""), ...phases.map((phase) => new Option(words(phase), phase)));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const { match_event, match_timing, home_goals, away_goals, text } = form.elements;
    const number = ({ value }) => (value === "" ? null : Number(value));
    fire({
      match_event: match_event.value.trim(),
      match_timing: match_timing.value,
      home_goals: number(home_goals),
      away_goals: number(away_goals),
      text: text.value.trim() || words(match_event.value.trim()),
    });
  });
}

async function fire(event) {
  const wrong = await post("fire", event);
  element("fired").textContent = wrong ? `Not fired: ${wrong}.` : `${words(event.match_event)} fired. The replay waits; Play takes it up again.`;
}

function layTimeline() {
  const scrub = element("scrub");
  scrub.max = moments.length - 1;
  element("marks").replaceChildren(
    ...moments.map(({ match_event, minute }, index) => {
      const mark = document.createElement("span");
      // Labels of added time are the longest: they give way first.
      mark.className = match_event === "GOAL" ? "goal" : minute.includes("+") ? "added" : "";
      mark.textContent = `${minute}'`;
      mark.style.left = `${(100 * index) / (moments.length - 1)}%`;
      return mark;
    }),
  );
  scrub.addEventListener("input", () => {
    scrubbing = true;
    sayMoment();
  });
  scrub.addEventListener("change", async () => {
    await post("replay", { moment: Number(scrub.value), playing: false });
    scrubbing = false;
  });
  const play = element("play");
  play.addEventListener("click", () => post("replay", { playing: play.dataset.playing !== "true" }));
  element("speed").addEventListener("change", ({ target }) => post("replay", { speed: Number(target.value) }));
  sayMoment();
}

function sayMoment() {
  const scrub = element("scrub");
  const { minute, match_event, score, text } = moments[Number(scrub.value)];
  const what = match_event === "NONE" ? text : `${words(match_event)}. ${text}`;
  scrub.setAttribute("aria-valuetext", `${minute}', ${score.join("–")}, ${what}`);
  element("moment").textContent = scrubbing ? `${minute}' · ${score.join("–")} · ${what}` : note();
  scrub.style.setProperty("--past", `${(100 * Number(scrub.value)) / Number(scrub.max)}%`);
}

function note() {
  const { playing, byHand } = element("play").dataset;
  if (playing === "true") return "Drag the timeline to look back";
  return byHand === "true" ? "Paused, because you fired an event: Play takes the match up again" : "Paused: drag the timeline to any moment, or fire an event below";
}

/** Where the replay stands. */
export function showReplay({ playing, speed, moment, by_hand }) {
  const play = element("play");
  play.dataset.playing = playing;
  play.dataset.byHand = by_hand;
  element("play-word").textContent = playing ? "Pause" : "Play";
  const speeds = [...new Set([...SPEEDS, speed])].sort((a, b) => a - b);
  const list = element("speed");
  if (list.length !== speeds.length) list.replaceChildren(...speeds.map((value) => new Option(`${value}×`, value)));
  list.value = String(speed);
  if (!scrubbing) element("scrub").value = moment ?? 0;
  sayMoment();
}
