// A phone: shows one fan's component set, what changed in it, and on a tap why. Knows no other
// phone and nothing of the match.

import { connectFan } from "/fan-socket.js";

const STATES = { connecting: "connecting", connected: "live", waiting: "not connected" };
/** Who answered, in words. */
export const ORIGINS = { embedded: "embedded ranker", personalize: "Amazon Personalize", cohort: "fans like this one", popular: "what is popular" };
const FRESHNESS = { live: "asked just now", cached: "asked a moment ago", stale: "the last known answer" };
const TEMPLATES = { phone: document.getElementById("phone"), slot: document.getElementById("slot") };

/**
 * Adds a fan's phone. `onSet(set)` is called when a set is on the screen, `onTap(set, component)`
 * returns a promise of whether the tap was counted.
 */
export function addPhone(parent, fan, { gateway, contentId, onSet, onTap, onConnection }) {
  const phone = TEMPLATES.phone.content.cloneNode(true).firstElementChild;
  phone.dataset.consumer = fan.consumer_id;
  phone.dataset.state = "connecting";
  phone.setAttribute("aria-label", `${fan.name}'s phone`);
  phone.querySelector(".avatar").textContent = fan.name[0];
  phone.querySelector("h2").textContent = fan.name;
  phone.querySelector(".taste").textContent = fan.taste;
  parent.append(phone);

  const state = phone.querySelector(".state span");
  const socket = connectFan({
    url: gateway,
    consumerId: fan.consumer_id,
    deviceId: `page-${crypto.randomUUID?.() ?? Math.random()}`,
    contentId,
    onState(name) {
      // A retry that is under way is not news for somebody who reads "not connected".
      const shown = name === "connecting" && phone.dataset.state === "waiting" ? "waiting" : name;
      phone.dataset.state = shown;
      state.textContent = STATES[shown];
      onConnection(shown === "connected");
    },
    onComponents(set) {
      show(phone, set, (component) => tell(phone, fan, set, component, onTap, socket));
      onSet(set);
    },
    onEnded: () => show(phone, { components: [], version: "", set_id: "" }, () => {}),
  });
}

function show(phone, set, onTap) {
  const list = phone.querySelector(".slots");
  const isFirst = list.childElementCount === 0;
  const before = new Map([...list.children].map((slot, place) => [slot.dataset.slot, { slot, place, item: slot.dataset.item }]));
  const focused = [...list.children].findIndex((slot) => slot.contains(document.activeElement));
  const taken = new Map();
  set.components.forEach((component, place) => {
    // Several items of one type are told apart by their order.
    const nth = taken.get(component.item_type) ?? 0;
    taken.set(component.item_type, nth + 1);
    const name = `${component.item_type} ${nth}`;
    const old = before.get(name);
    before.delete(name);
    const slot = old?.slot ?? newSlot(name);
    fill(slot, component, () => onTap(component));
    const isNew = !isFirst && old?.item !== component.item_id;
    mark(slot, isNew, isFirst || isNew ? 0 : old.place - place);
    slot.style.setProperty("--place", place);
    moveTo(list, slot, place);
  });
  for (const { slot } of before.values()) slot.remove();
  // Whoever was on a slot that went stays at its place.
  if (focused >= 0 && !list.contains(document.activeElement)) {
    list.children[Math.min(focused, list.childElementCount - 1)]?.firstElementChild.focus({ preventScroll: true });
  }
  list.style.setProperty("--count", Math.max(4, set.components.length));
  phone.dataset.version = set.version;
  phone.dataset.set = set.set_id;
}

function newSlot(name) {
  const slot = TEMPLATES.slot.content.cloneNode(true).firstElementChild;
  slot.dataset.slot = name;
  return slot;
}

function fill(slot, component, onTap) {
  const { item_type: type, item_id: item } = component;
  slot.dataset.type = type;
  slot.dataset.item = item;
  const symbol = document.getElementById(`type-${type}`) ? `#type-${type}` : "#type-other";
  slot.querySelector("use").setAttribute("href", symbol);
  slot.querySelector(".type").textContent = type;
  slot.querySelector(".label").textContent = labelOf(component);
  slot.firstElementChild.onclick = onTap;
}

function labelOf(component) {
  return component.attributes?.item_label ?? component.item_id;
}

/** Says on a slot that what it shows is new, or by how many places it moved up. */
function mark(slot, isNew, places) {
  const sign = slot.querySelector(".mark");
  sign.replaceChildren();
  if (isNew) {
    sign.append("new");
  } else if (places !== 0) {
    const arrow = element("span", places > 0 ? "▲" : "▼");
    arrow.setAttribute("role", "img");
    arrow.setAttribute("aria-label", places > 0 ? "up" : "down");
    sign.append(arrow, ` ${Math.abs(places)}`);
  }
  slot.classList.toggle("new", isNew);
  light(slot, isNew);
}

/** Starts an element's animation anew. */
export function light(element, on = true) {
  element.classList.remove("lit");
  if (!on) return;
  void element.offsetWidth;
  element.classList.add("lit");
}

/** Puts a slot at its place in reading order, without losing its focus or its way there. */
function moveTo(list, slot, place) {
  const there = list.children[place] ?? null;
  if (there === slot) return;
  if (slot.isConnected && list.moveBefore) {
    list.moveBefore(slot, there);
    return;
  }
  const hadFocus = slot.contains(document.activeElement);
  list.insertBefore(slot, there);
  if (hadFocus) slot.firstElementChild.focus({ preventScroll: true });
}

/** Why this component, and that the tap was counted. */
function tell(phone, fan, set, component, onTap, socket) {
  const why = phone.querySelector(".why");
  const title = element("h3", labelOf(component));
  const age = set.freshness !== "live" && set.age_ms ? `, ${Math.round(set.age_ms / 1000)} s old` : "";
  const facts = {
    Rank: component.rank,
    Score: component.score?.toPrecision(3) ?? "none",
    Origin: ORIGINS[set.origin] ?? set.origin,
    Freshness: `${set.freshness}, ${FRESHNESS[set.freshness] ?? ""}${age}`,
  };
  const list = document.createElement("dl");
  for (const [name, value] of Object.entries(facts)) list.append(element("dt", name), element("dd", value));
  const note = element("p", "Counting this tap …");
  note.className = "counted";
  note.setAttribute("role", "status");
  const close = element("button", "Close");
  close.type = "button";
  close.onclick = () => {
    why.hidden = true;
    phone.querySelector(".slots").inert = false;
    const slots = [...phone.querySelectorAll(".slots li")];
    const slot = slots.find(({ dataset }) => dataset.item === component.item_id) ?? slots[0];
    slot?.firstElementChild.focus({ preventScroll: true });
    // What was learnt may already change what this fan is shown.
    socket.ask();
  };
  why.setAttribute("aria-label", `Why ${labelOf(component)}`);
  why.replaceChildren(title, list, note, close);
  why.onkeydown = ({ key }) => key === "Escape" && close.onclick();
  why.hidden = false;
  phone.querySelector(".slots").inert = true;
  close.focus({ preventScroll: true });
  onTap(set, component).then((counted) => {
    note.textContent = counted ? `Counted. From now on ${fan.name}'s phone knows this tap.` : "This tap could not be counted.";
    note.dataset.counted = counted;
  });
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}
