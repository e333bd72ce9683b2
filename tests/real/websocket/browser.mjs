// Chromium's own WebSocket, as a fan's page has it. What frames it sends is its own affair, so what is
// malformed is for the other clients.

import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { join } from "node:path";

const { CHROMIUM, FANS_PORT, MANAGEMENT_PORT, NODE_MODULES } = process.env;
const DEADLINE_MS = Number(process.env.DEADLINE_SECONDS ?? 20) * 1000;
const FANS = `ws://127.0.0.1:${FANS_PORT}/dev`;
const ARGUMENTS = [
  "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];
const { named: NAMED } = JSON.parse(readFileSync(new URL("cases.json", import.meta.url)));
const MESSAGE_BYTES_MAX = 128 * 1024;

const require = createRequire(join(NODE_MODULES, "from-here.js"));
const { chromium } = require("playwright-core");
const WebSocket = require("ws");

let passed = 0;
let failed = 0;

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

function same(found, wanted) {
  const [one, other] = [JSON.stringify(found), JSON.stringify(wanted)];
  if (one !== other) throw new Error(`${one.slice(0, 500)} instead of ${other.slice(0, 500)}`);
}

/** Who else serves a page: a browser tells an origin of this machine from one that is none. */
const site = createServer((_, answer) => answer.setHeader("content-type", "text/html").end("<!doctype html>"));
site.listen(0, "127.0.0.1");
await once(site, "listening");

/** A page on this machine with a function that opens a socket and notes what it hears. */
async function openPage(browser) {
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${site.address().port}/`);
  await page.evaluate(({ url, deadline }) => {
    globalThis.open = async (path = url, protocols = []) => {
      const socket = new WebSocket(path, protocols);
      socket.binaryType = "arraybuffer";
      const fan = { socket, heard: [], wake: () => {} };
      fan.ended = new Promise((resolve) => {
        socket.onclose = ({ code, reason, wasClean }) => resolve({ code, reason, wasClean });
      });
      socket.onmessage = ({ data }) => {
        fan.heard.push(data);
        fan.wake();
      };
      fan.answers = async (count) => {
        while (fan.heard.length < count) {
          const next = await inTime(Promise.race([new Promise((resolve) => (fan.wake = resolve)), fan.ended]));
          if (next) throw new Error(`closed with ${next.code} after ${fan.heard.length} of ${count}`);
        }
        return fan.heard;
      };
      await inTime(Promise.race([new Promise((resolve) => (socket.onopen = resolve)), fan.ended]));
      return fan;
    };
    globalThis.inTime = (promise) =>
      Promise.race([promise, new Promise((_, reject) => setTimeout(() => reject(new Error("not in time")), deadline))]);
  }, { url: FANS, deadline: DEADLINE_MS });
  return page;
}

/** Sends each text in the page, and gives what came for them. */
const ask = (page, texts) =>
  page.evaluate(async (texts) => {
    const fan = await open();
    for (const text of texts) fan.socket.send(text);
    const heard = await fan.answers(texts.length);
    fan.socket.close();
    return heard;
  }, texts);

/** Sends so many of a text, as one message, and gives the first answer or how it ended. */
const askLarge = (page, text, times) =>
  page.evaluate(async ([text, times]) => {
    const fan = await open();
    fan.socket.send(text.repeat(times));
    const first = await fan.answers(1).catch(() => fan.ended);
    fan.socket.close();
    return first;
  }, [text, times]);

const browser = await chromium.launch({ executablePath: CHROMIUM, args: ARGUMENTS });
const page = await openPage(browser);
console.log(`figure: Chromium ${browser.version()}`);
// Stays to the end, so that it is pinged meanwhile.
await page.evaluate(async () => {
  globalThis.lasting = await open();
});

await check("compression is offered and declined, and no subprotocol is spoken", async () => {
  const said = await page.evaluate(async () => {
    const { socket } = await open();
    socket.close();
    return [socket.extensions, socket.protocol];
  });
  same(said, ["", ""]);
});
await check("`touchline` is accepted where it is offered, beside a token that is never repeated", async () => {
  const said = await page.evaluate(async (url) => {
    const { socket } = await open(url, ["touchline", "touchline.bearer.a.b.c"]);
    socket.close();
    return [socket.protocol, socket.readyState];
  }, FANS);
  same(said, ["touchline", 2]);
});
await check("a subprotocol that nobody knows is not accepted, which a browser takes for a refusal", async () => {
  const ended = await page.evaluate(async (url) => (await open(url, ["graphql-ws"])).ended, FANS);
  same([ended.code, ended.wasClean], [1006, false]);
});
await check("a registration is answered", async () => same(await ask(page, [NAMED.registration]), [NAMED.registered]));
await check("forty messages at once are answered in order", async () => {
  const texts = Array.from({ length: 40 }, (_, index) => (index % 3 === 0 ? NAMED.registration : `message ${index}`));
  same(await ask(page, texts), texts.map((text) => (text === NAMED.registration ? NAMED.registered : NAMED.default)));
});
await check("an empty message, and half a surrogate pair, which a browser replaces", async () =>
  same(await ask(page, ["", "\ud83e", "🦊"]), [NAMED.default, NAMED.default, NAMED.default]));
await check("30,000 bytes of four bytes' characters", async () => same(await askLarge(page, "🦊", 7_500), [NAMED.default]));
await check("a message over 128 KB closes with 1009", async () => {
  const ended = await askLarge(page, "x", MESSAGE_BYTES_MAX + 1);
  same([ended.code, ended.wasClean], [1009, true]);
});
for (const what of ["an ArrayBuffer", "a Blob", "an empty ArrayBuffer"]) {
  await check(`${what} closes with 1003`, async () => {
    const ended = await page.evaluate(async (what) => {
      const fan = await open();
      const bytes = new Uint8Array(what.includes("empty") ? 0 : 100);
      fan.socket.send(what.includes("Blob") ? new Blob([bytes]) : bytes.buffer);
      return inTime(fan.ended);
    }, what);
    same([ended.code, ended.wasClean], [1003, true]);
  });
}
for (const [code, reason] of [[1000, ""], [1000, "é".repeat(61)], [3000, "done"], [4999, "x".repeat(123)]]) {
  await check(`closing with ${code} and ${new TextEncoder().encode(reason).length} bytes of a reason is answered with the same`, async () => {
    const ended = await page.evaluate(async ([code, reason]) => {
      const fan = await open();
      fan.socket.close(code, reason);
      return inTime(fan.ended);
    }, [code, reason]);
    same(ended, { code, reason, wasClean: true });
  });
}
await check("closing without a code is answered without one", async () => {
  const ended = await page.evaluate(async () => {
    const fan = await open();
    fan.socket.close();
    return inTime(fan.ended);
  });
  same(ended, { code: 1005, reason: "", wasClean: true });
});
await check("another path than the stage is refused", async () => {
  const ended = await page.evaluate(async (url) => (await open(url.replace("/dev", "/other"))).ended, FANS);
  same([ended.code, ended.wasClean], [1006, false]);
});

const management = (id) => `http://127.0.0.1:${MANAGEMENT_PORT}/@connections/${encodeURIComponent(id)}`;
const idOf = async (page) => {
  const id = await page.evaluate(async () => {
    globalThis.posted = await open();
    posted.socket.send('{"action":"sendmessage"}');
    return JSON.parse((await posted.answers(1))[0]).connectionId;
  });
  return id;
};
await check("a message of 128 KB that is posted arrives whole", async () => {
  const id = await idOf(page);
  const text = "🦊é".repeat(Math.floor(MESSAGE_BYTES_MAX / 6));
  const posted = await fetch(management(id), { method: "POST", body: text });
  same(posted.status, 200);
  const heard = await page.evaluate(async () => (await posted.answers(2))[1]);
  same(heard === text, true);
});
await check("a connection that the server closes ends with 1001", async () => {
  const id = await idOf(page);
  same((await fetch(management(id), { method: "DELETE" })).status, 204);
  const ended = await page.evaluate(() => inTime(posted.ended));
  same([ended.code, ended.wasClean], [1001, true]);
});
await check("a tab that is closed leaves no connection behind", async () => {
  const other = await openPage(browser);
  const id = await idOf(other);
  same((await fetch(management(id))).status, 200);
  await other.close();
  const end = Date.now() + DEADLINE_MS;
  while ((await fetch(management(id))).status !== 410) {
    if (Date.now() > end) throw new Error("the connection is still there");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
});
await check("a fan who is pinged answers by itself and stays", async () => {
  // Opened later than the page's, so that the page has been pinged as often.
  const clock = new WebSocket(FANS);
  for (let pings = 0; pings < 3; pings += 1) await once(clock, "ping");
  clock.terminate();
  const answer = await page.evaluate(async () => {
    lasting.socket.send("still there");
    return lasting.answers(1);
  });
  same(answer, [NAMED.default]);
});
await browser.close();
site.close();

console.log(`${passed} ${failed}`);
process.exit(failed > 0 ? 1 : 0);
