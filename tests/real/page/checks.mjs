// The page in a real browser: phones, desk, timeline, taps, a restart, motion, layout, access.
// Arguments: those of `touchline local`. Starts and ends that process itself, since one of the
// checks is that it ends under the page.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const { CHROMIUM, NODE_MODULES, SCREENSHOTS, TOUCHLINE_BINARY, PAGE_PORT, README_SCREENSHOT } = process.env;
const DEADLINE_MS = Number(process.env.DEADLINE_SECONDS ?? 20) * 1000;
const ARGUMENTS = [
  "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];
const URL_OF_PAGE = `http://127.0.0.1:${PAGE_PORT}/`;
const PHONES = 6;
/** Google calls 0.1 good; a set that changes should move nothing at all. */
const CLS_MAX = 0.01;
const README_BYTES_MAX = 300 * 1024;

const require = createRequire(join(NODE_MODULES, "from-here.js"));
const { chromium } = require("playwright-core");
const AXE = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

let passed = 0;
let failed = 0;
let touchline = null;
const log = [];
/** What the browser complained of, and where it went. */
const complaints = [];
const hosts = new Set();

async function check(what, run) {
  try {
    await run();
    passed += 1;
    console.log(`ok      ${what}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${what}\n        | ${String(error.stack ?? error).replaceAll("\n", "\n        | ")}`);
  }
}

function holds(condition, what) {
  if (!condition) throw new Error(what);
}

/** Tries until there is something to return. */
async function eventually(what, look) {
  const end = Date.now() + DEADLINE_MS;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
}

async function startTouchline() {
  touchline = spawn(TOUCHLINE_BINARY, process.argv.slice(2), { stdio: ["ignore", "pipe", "pipe"] });
  for (const stream of [touchline.stdout, touchline.stderr]) stream.on("data", (data) => log.push(String(data)));
  await eventually("touchline local is ready", async () => {
    if (touchline.exitCode !== null) throw new Error(`touchline ended: ${log.join("")}`);
    return fetch(`${URL_OF_PAGE}api/page`).then(({ ok }) => ok, () => false);
  });
}

async function endTouchline(signal) {
  const ended = once(touchline, "exit");
  touchline.kill(signal);
  await ended;
}

async function openPage(browser, options = {}) {
  const { width = 1280, height = 900, before, ...more } = options;
  const context = await browser.newContext({ viewport: { width, height }, ...more });
  const page = await context.newPage();
  page.on("request", (request) => hosts.add(new URL(request.url()).hostname));
  page.on("websocket", (socket) => hosts.add(new URL(socket.url()).hostname));
  page.on("console", (message) => {
    // While nothing listens the browser itself says so; the page cannot keep it from that.
    const isAway = page.expectsAway && message.text().includes("ERR_CONNECTION_REFUSED");
    const isLost = page.expectsAway && /ERR_(INCOMPLETE_CHUNKED|CONNECTION_(RESET|CLOSED)|EMPTY_RESPONSE)/.test(message.text());
    if (["error", "warning"].includes(message.type()) && !isAway && !isLost) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.addInitScript(() => {
    globalThis.shifts = [];
    new PerformanceObserver((list) => {
      for (const { value, hadRecentInput, startTime } of list.getEntries()) {
        if (!hadRecentInput) globalThis.shifts.push({ value, startTime });
      }
    }).observe({ type: "layout-shift", buffered: true });
  });
  await before?.(page);
  await page.goto(URL_OF_PAGE);
  await allConnected(page);
  return page;
}

const allConnected = (page) =>
  eventually("all phones are connected", () =>
    page.evaluate((count) => document.querySelectorAll('.phone[data-state="connected"]').length === count && document.getElementById("link").textContent === "Live", PHONES));

/** What each phone shows: its version, its set and its items, by consumer. */
const phones = (page) =>
  page.evaluate(() =>
    Object.fromEntries([...document.querySelectorAll(".phone")].map((phone) => [phone.dataset.consumer, {
      version: phone.dataset.version,
      set: phone.dataset.set,
      items: [...phone.querySelectorAll(".slots li")].map(({ dataset }) => dataset.item).join(" "),
    }])));

/** Until every phone shows one and the same version, another than before. */
const changed = (page, before) =>
  eventually("every phone shows the change", async () => {
    const now = await phones(page);
    const versions = new Set(Object.values(now).map(({ version }) => version));
    const isNew = Object.entries(now).every(([fan, { version, items }]) => version && items && version !== before[fan]?.version);
    return Object.keys(now).length === PHONES && versions.size === 1 && isNew && now;
  });

async function post(page, what, body) {
  const status = await page.evaluate(async ([what, body]) => {
    const answer = await fetch(`/api/${what}`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
    return answer.status;
  }, [what, body]);
  holds(status === 204, `${what}: ${status}`);
}

const text = (page, id) => page.textContent(`#${id}`);
const textIs = (page, id, wanted) => eventually(`#${id} says ${wanted}`, async () => wanted.test(await text(page, id)));

/** Moves the focus with the Tab key until it is where it should be. */
async function tabTo(page, selector, key = "Tab") {
  for (let times = 0; times < 120; times += 1) {
    await page.keyboard.press(key);
    if (await page.evaluate((selector) => document.activeElement.matches(selector), selector)) return;
  }
  throw new Error(`the keyboard does not reach ${selector}`);
}

async function checkChange(browser) {
  const page = await openPage(browser);
  await check("six phones are connected and wait for the match", async () => {
    holds((await page.locator(".phone").count()) === PHONES, "not six phones");
  });
  await check("every phone rearranges on one fired event", async () => {
    const before = await phones(page);
    await page.click("#keys .goal");
    await changed(page, before);
  });
  await check("a goal raises the score, and the replay says why it waits", async () => {
    await textIs(page, "score", /^1–0$/);
    await textIs(page, "event", /^Goal$/);
    await textIs(page, "fired", /Goal fired/);
  });
  await check("fans are shown different sets", async () => {
    const sets = new Set(Object.values(await phones(page)).map(({ items }) => items));
    holds(sets.size >= 3, `${sets.size} different sets: ${[...sets].join(" | ")}`);
  });
  await check("the panel says how long it took, how many fans, and from which source", async () => {
    await textIs(page, "last", /^\d+ ms$/);
    await textIs(page, "fans", /^\d+6 on this page$/);
    await textIs(page, "sources", /embedded/);
    await textIs(page, "history", /Goal 1–0/);
  });
  await check("what changed on a phone is marked", async () => {
    await page.click('#keys [data-event="PENALTY"]');
    await eventually("a mark", () => page.evaluate(() => [...document.querySelectorAll(".mark")].some(({ textContent }) => textContent)));
  });
  await check("any other event is fired from the form", async () => {
    await page.click(".any summary");
    await page.fill('[name="match_event"]', "CORNER");
    await page.fill('[name="home_goals"]', "5");
    await page.fill('[name="away_goals"]', "4");
    await page.fill('[name="text"]', "Written by hand");
    await page.click("#any button");
    await textIs(page, "what", /^Written by hand$/);
    await textIs(page, "score", /^5–4$/);
  });
  await page.context().close();
}

async function checkTap(browser) {
  const page = await openPage(browser);
  await check("a tap says why: rank, score, origin, freshness; and is counted", async () => {
    const before = await phones(page);
    await page.click('#keys [data-event="FREE-KICK"]');
    await changed(page, before);
    await page.click('[data-consumer="nadia"] .slots button');
    const why = page.locator('[data-consumer="nadia"] .why');
    await why.locator('[data-counted="true"]').waitFor({ timeout: DEADLINE_MS });
    const said = await why.textContent();
    for (const part of ["Rank", "Score", "Origin", "embedded ranker", "Freshness"]) holds(said.includes(part), `${part}: ${said}`);
    await page.keyboard.press("Escape");
  });
  await check("taps change what comes next for that fan, within the minute", async () => {
    // The same event as before, so that nothing but the taps can have changed the answer.
    const event = { match_event: "FREE-KICK", text: "again" };
    const other = { match_event: "THROW", text: "in between" };
    const step = async (body) => {
      const before = await phones(page);
      await post(page, "fire", body);
      return changed(page, before);
    };
    await step(other);
    const first = (await step(event)).nadia.items;
    const item = first.split(" ").at(-1);
    const begin = Date.now();
    for (let taps = 0; taps < 12; taps += 1) await post(page, "tap", { consumer_id: "nadia", item_id: item });
    for (;;) {
      await step(other);
      const now = (await step(event)).nadia.items;
      if (now !== first) return;
      holds(Date.now() - begin < 60_000, `still ${now}, a minute after twelve taps on ${item}`);
    }
  });
  await page.context().close();
}

async function checkReplay(browser) {
  const page = await openPage(browser);
  await check("the timeline is scrubbed to a moment, and the match waits there", async () => {
    const before = await phones(page);
    await page.locator("#scrub").fill("18");
    await changed(page, before);
    await textIs(page, "what", /^Messi bundles in the third$/);
    await textIs(page, "score", /^3–2$/);
    await textIs(page, "play-word", /^Play$/);
  });
  await check("the match is played on, faster, and paused", async () => {
    await page.selectOption("#speed", "600");
    await page.click("#play");
    await textIs(page, "play-word", /^Pause$/);
    await textIs(page, "what", /^Paredes booked$/);
    await page.click("#play");
    await textIs(page, "play-word", /^Play$/);
  });
  await check("an event fired by hand pauses the match and says so; play takes it up again", async () => {
    await page.locator("#scrub").fill("3");
    await textIs(page, "what", /^Messi from the penalty spot$/);
    await page.selectOption("#speed", "15");
    await page.click("#play");
    await textIs(page, "play-word", /^Pause$/);
    await page.click('#keys [data-event="INJURY"]');
    await textIs(page, "event", /^Injury$/);
    await textIs(page, "play-word", /^Play$/);
    await textIs(page, "moment", /you fired an event/);
    await page.click("#play");
    await textIs(page, "what", /^Messi from the penalty spot$/);
    await page.click("#play");
    await textIs(page, "play-word", /^Play$/);
  });
  await page.context().close();
}

async function checkKeyboard(browser) {
  const page = await openPage(browser);
  await check("desk and phone are used with the keyboard alone", async () => {
    const before = await phones(page);
    await tabTo(page, '#keys [data-event="PENALTY"]');
    await page.keyboard.press("Enter");
    await changed(page, before);
    await tabTo(page, '[data-consumer="lucy"] .slots button', "Shift+Tab");
    await page.keyboard.press("Enter");
    await page.locator('[data-consumer="lucy"] [data-counted="true"]').waitFor({ timeout: DEADLINE_MS });
    await page.keyboard.press("Escape");
    holds(await page.evaluate(() => document.activeElement.matches('[data-consumer="lucy"] .slots button')), "the focus does not come back to the phone");
  });
  await check("a set that changes under the focus does not take it away", async () => {
    const before = await phones(page);
    await post(page, "fire", { match_event: "GOAL", scorer: "away" });
    await changed(page, before);
    holds(await page.evaluate(() => document.activeElement.matches(".slots button, .slots li *")), "the focus is lost");
  });
  await check("the timeline is moved with the arrow keys", async () => {
    await page.focus("#scrub");
    const before = Number(await page.inputValue("#scrub"));
    await page.keyboard.press("ArrowRight");
    await eventually("the moment moves", async () => Number(await page.inputValue("#scrub")) === before + 1);
    const said = await page.getAttribute("#scrub", "aria-valuetext");
    holds(said.length > 5, `the screen reader is told ${said}`);
  });
  await page.context().close();
}

async function checkRestart(browser) {
  const page = await openPage(browser);
  page.expectsAway = true;
  await check("killed under the page: the page says that it is not connected, on every phone", async () => {
    await endTouchline("SIGKILL");
    await textIs(page, "link", /^Not connected/);
    await textIs(page, "fans", /^–$/);
    await eventually("every phone says so", () => page.evaluate((count) => document.querySelectorAll('.phone[data-state="waiting"]').length === count, PHONES));
  });
  await check("started again: every phone comes back by itself and is current", async () => {
    const before = await phones(page);
    await startTouchline();
    await post(page, "fire", { match_event: "INJURY", text: "while they were away" });
    await allConnected(page);
    await textIs(page, "what", /^while they were away$/);
    // A phone whose set still stands is sent nothing; the others show what they missed.
    await eventually("what was missed is shown", async () =>
      Object.entries(await phones(page)).some(([consumer, { version }]) => version !== before[consumer].version));
    const back = await phones(page);
    await post(page, "fire", { match_event: "GOAL", scorer: "home" });
    await changed(page, back);
  });
  page.expectsAway = false;
  await page.context().close();
}

async function checkSocket(browser) {
  const page = await openPage(browser);
  await check("within an epoch nothing older replaces what is shown", async () => {
    const answers = await page.evaluate(async () => {
      const { applies } = await import("/fan-socket.js");
      const at = (epoch, sequence) => ({ epoch, sequence });
      return [
        applies(undefined, at("a", "1")), applies(at("a", "1"), at("a", "2")), applies(at("a", "1"), at("a", "1")),
        applies(at("a", "2"), at("b", "1")), applies(at("a", "2"), {}), !applies(at("a", "2"), at("a", "1")),
      ];
    });
    holds(answers.every(Boolean), answers.join());
  });
  await check("those who were cut off together come back spread, and not later than the ceiling", async () => {
    const [none, most, far] = await page.evaluate(async () => {
      const { backOffMs } = await import("/fan-socket.js");
      return [backOffMs(9, () => 0), backOffMs(3, () => 1), backOffMs(50, () => 1)];
    });
    holds(none === 0 && most === 2_000 && far === 20_000, `${none}, ${most}, ${far}`);
  });
  await check("who is sent to another server comes back when it was told to", async () => {
    const [told, far, ...others] = await page.evaluate(async () => {
      const { retryAfterMs } = await import("/fan-socket.js");
      const reasons = ['{"retry_after_ms":850}', '{"retry_after_ms":1e12}', "the connection is idle", "", "null", '{"retry_after_ms":-1}'];
      return reasons.map(retryAfterMs);
    });
    holds(told === 850 && far === 60_000 && others.every((ms) => ms === null), `${told}, ${far}, ${others}`);
  });
  await page.context().close();
  await check("every phone renews its connection before two hours, and says what it shows", async () => {
    const registered = [];
    const later = await openPage(browser, {
      before: async (page) => {
        await page.clock.install();
        page.on("websocket", (socket) => socket.on("framesent", ({ payload }) => registered.push(JSON.parse(payload))));
      },
    });
    await eventually("every phone shows something", async () => Object.values(await phones(later)).every(({ set }) => set));
    const first = registered.length;
    await later.clock.fastForward("01:56:00");
    await eventually("every phone has registered again", () => registered.length >= first + PHONES);
    holds(registered.slice(first).every(({ set_id }) => set_id), "a phone did not say what it shows");
    await allConnected(later);
    await later.context().close();
  });
}

async function checkStillness(browser) {
  const page = await openPage(browser, { reducedMotion: "reduce" });
  await check("with reduced motion nothing moves", async () => {
    const before = await phones(page);
    await page.evaluate(() => {
      globalThis.moved = [];
      const look = () => {
        for (const animation of document.getAnimations()) globalThis.moved.push(animation.animationName ?? animation.transitionProperty ?? "?");
        requestAnimationFrame(look);
      };
      look();
    });
    await post(page, "fire", { match_event: "GOAL", scorer: "home" });
    await changed(page, before);
    const moved = await page.evaluate(() => globalThis.moved);
    holds(moved.length === 0, `animations: ${moved.join(", ")}`);
  });
  await page.context().close();
  const other = await openPage(browser);
  await check("without it what is new is seen to come", async () => {
    await other.evaluate(() => {
      globalThis.moved = 0;
      document.addEventListener("animationstart", () => (globalThis.moved += 1));
    });
    await post(other, "fire", { match_event: "GOAL", scorer: "home" });
    await eventually("an animation", () => other.evaluate(() => globalThis.moved > 0));
  });
  await other.context().close();
}

async function checkLayout(browser, width, height) {
  const page = await openPage(browser, { width, height });
  await check(`at ${width} px nothing shifts when sets change, and nothing sticks out`, async () => {
    await changed(page, {});
    const begin = await page.evaluate(() => performance.now());
    for (const event of ["THROW", "PENALTY", "FREE-KICK"]) {
      const before = await phones(page);
      await post(page, "fire", { match_event: event, text: `${event} at ${width}` });
      await changed(page, before);
    }
    const shifts = await page.evaluate((begin) => globalThis.shifts.filter(({ startTime }) => startTime > begin), begin);
    const sum = shifts.reduce((sum, { value }) => sum + value, 0);
    console.log(`figure: layout shift of three changes at ${width} px: ${sum.toFixed(4)}`);
    holds(sum < CLS_MAX, `layout shift ${sum}`);
    const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    holds(over <= 0, `${over} px stick out`);
  });
  await check(`at ${width} px the phones stand beside each other and no name of a slot is cut`, async () => {
    const [rows, cut] = await page.evaluate(() => [
      new Set([...document.querySelectorAll(".case")].map((phone) => Math.round(phone.getBoundingClientRect().top))).size,
      [...document.querySelectorAll(".slots .type")].filter((type) => type.scrollWidth > type.clientWidth).length,
    ]);
    holds(rows === 1 && cut === 0, `${rows} rows of phones, ${cut} names cut`);
  });
  await page.context().close();
}

async function checkAccess(browser, colorScheme) {
  const page = await openPage(browser, { colorScheme, reducedMotion: "reduce" });
  await check(`axe-core finds nothing serious, ${colorScheme}`, async () => {
    const before = await phones(page);
    await post(page, "fire", { match_event: "PENALTY", text: `for axe, ${colorScheme}` });
    await post(page, "fire", { match_event: "GOAL", scorer: "home", text: `Goal, ${colorScheme}` });
    await changed(page, before);
    await page.click(".any summary");
    await page.click('[data-consumer="omar"] .slots button');
    await page.locator('[data-consumer="omar"] [data-counted="true"]').waitFor({ timeout: DEADLINE_MS });
    await page.evaluate(AXE);
    const { violations } = await page.evaluate(() => globalThis.axe.run());
    const grave = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
    holds(grave.length === 0, grave.map(({ id, help, nodes }) => `${id}: ${help}\n${nodes.map(({ html, failureSummary }) => `  ${html}\n  ${failureSummary}`).join("\n")}`).join("\n"));
  });
  await page.context().close();
}

async function takeScreenshots(browser) {
  mkdirSync(SCREENSHOTS, { recursive: true });
  for (const [width, height] of [[390, 844], [1280, 900], [1920, 1080]]) {
    for (const colorScheme of ["light", "dark"]) {
      const page = await openPage(browser, { width, height, colorScheme });
      await check(`screenshot, ${width} px, ${colorScheme}`, async () => {
        await showGoal(page, `${width} ${colorScheme}`);
        await page.screenshot({ path: join(SCREENSHOTS, `${width}-${colorScheme}.png`), fullPage: true });
      });
      await page.context().close();
    }
  }
}

/** The match at its 108th minute, a fan's reason open, everything at rest. */
async function showGoal(page, name) {
  await post(page, "replay", { moment: 17, playing: false });
  await textIs(page, "what", /^Extra time under way$/);
  await eventually("the phones show it", () => page.evaluate(() => document.querySelectorAll(".slots li").length > 0));
  await page.waitForFunction(() => document.getAnimations().length === 0, null, { timeout: DEADLINE_MS });
  const before = await phones(page);
  await post(page, "replay", { moment: 18, playing: false });
  await changed(page, before);
  await textIs(page, "what", /^Messi bundles in the third$/);
  await textIs(page, "last", /^\d+ ms$/);
  await page.waitForFunction(() => document.getAnimations().length === 0, null, { timeout: DEADLINE_MS });
  holds((await phones(page)).diego.items, name);
}

async function takeReadmeScreenshot(browser) {
  const page = await openPage(browser, { width: 1280, height: 900, colorScheme: "light" });
  await check("the README's screenshot is taken", async () => {
    await showGoal(page, "readme");
    await page.screenshot({ path: README_SCREENSHOT, fullPage: true });
    const { size } = statSync(README_SCREENSHOT);
    holds(size < README_BYTES_MAX, `${size} bytes`);
  });
  await page.context().close();
}

process.on("exit", () => touchline?.kill("SIGKILL"));
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(130));
await startTouchline();
const browser = await chromium.launch({ executablePath: CHROMIUM, args: ARGUMENTS });
await checkChange(browser);
await checkTap(browser);
await checkReplay(browser);
await checkKeyboard(browser);
await checkRestart(browser);
await checkSocket(browser);
await checkStillness(browser);
for (const [width, height] of [[390, 844], [1280, 900], [1920, 1080]]) await checkLayout(browser, width, height);
for (const colorScheme of ["light", "dark"]) await checkAccess(browser, colorScheme);
await takeScreenshots(browser);
if (README_SCREENSHOT) await takeReadmeScreenshot(browser);
await check("the browser has nothing to complain of", () => holds(complaints.length === 0, [...new Set(complaints)].join("\n")));
await check("no request leaves this machine", () => holds([...hosts].join() === "127.0.0.1", [...hosts].join()));
await browser.close();
await check("touchline ends in order", async () => {
  await endTouchline("SIGINT");
  holds(touchline.exitCode === 0, `exit code ${touchline.exitCode}`);
});
console.log(`${passed} passed, ${failed} failed`);
if (failed > 0) console.log(log.join("").split("\n").slice(-60).map((line) => `touchline | ${line}`).join("\n"));
process.exit(failed > 0 ? 1 : 0);
