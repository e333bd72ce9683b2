// Node's `ws`: its writer of frames and its reader, for all of cases.json, and its client for what it
// does by itself.

import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { randomBytes } from "node:crypto";

const { FANS_PORT, NODE_MODULES } = process.env;
const DEADLINE_MS = Number(process.env.DEADLINE_SECONDS ?? 20) * 1000;
const FANS = `ws://127.0.0.1:${FANS_PORT}/dev`;
const TABLE = JSON.parse(readFileSync(new URL("cases.json", import.meta.url)));
const NAMED = TABLE.named;

const require = createRequire(join(NODE_MODULES, "from-here.js"));
const WebSocket = require("ws");
const { Sender } = WebSocket;

let passed = 0;
let failed = 0;

async function check(what, run) {
  const timer = new AbortController();
  const late = new Promise((_, reject) => {
    const timeout = setTimeout(() => reject(new Error("not in time")), DEADLINE_MS);
    timer.signal.addEventListener("abort", () => clearTimeout(timeout));
  });
  try {
    await Promise.race([run(), late]);
    passed += 1;
    console.log(`ok      ${what}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${what}\n        | ${String(error.stack ?? error).replaceAll("\n", "\n        | ")}`);
  }
  timer.abort();
}

function same(found, wanted) {
  const [one, other] = [JSON.stringify(found), JSON.stringify(wanted)];
  if (one !== other) throw new Error(`${one} instead of ${other}`);
}

/** A connection that notes what it is sent, as `ws` tells it. */
class Fan {
  constructor(...options) {
    this.heard = [];
    this.socket = new WebSocket(FANS, ...options);
    this.opened = once(this.socket, "open");
    this.ended = once(this.socket, "close").then(([code, reason]) => ({ code, reason: String(reason) }));
    this.socket.on("message", (data, isBinary) => this.hear({ [isBinary ? "binary" : "text"]: String(data) }));
    this.socket.on("pong", (data) => this.hear({ pong: data.toString("hex") }));
    // Both ends are told of a broken rule, and the code says which.
    this.socket.on("error", (error) => (this.error = error));
  }

  static async open(...options) {
    const fan = new Fan(...options);
    await fan.opened;
    return fan;
  }

  hear(message) {
    this.heard.push(message);
    this.wake?.();
  }

  /** Until as many answers are there. */
  async answers(count) {
    while (this.heard.length < count) await new Promise((resolve) => (this.wake = resolve));
    return this.heard.slice(0, count);
  }

  /** As it is, past everything that `ws` would check. */
  async sendRaw(data, segments = data.length) {
    const stream = this.socket._socket;
    stream.setNoDelay(true);
    stream.on("error", () => {});
    for (let start = 0; start < data.length && stream.writable; start += segments) {
      const segment = data.subarray(start, start + segments);
      await new Promise((resolve) => stream.write(segment, resolve));
    }
  }
}

function textOf(value) {
  if (Array.isArray(value)) return value[0].repeat(value[1]);
  return value.startsWith("@") ? NAMED[value.slice(1)] : value;
}

/** By `ws`' own writer of frames, where it can write them. */
function frame(first, payload, { masked = true, header = 0 } = {}) {
  if (header === 8) {
    const mask = randomBytes(4);
    return Buffer.concat([announced(first, payload.length, masked), mask, payload.map((byte, index) => byte ^ mask[index & 3])]);
  }
  const options = { opcode: first & 0x0f, fin: Boolean(first & 0x80), rsv1: Boolean(first & 0x40), mask: masked, readOnly: true };
  const frame = Buffer.concat(Sender.frame(payload, options));
  frame[0] |= first & 0x30;
  return frame;
}

function announced(first, length, masked) {
  const header = Buffer.alloc(10);
  header.set([first, 127 | (masked ? 0x80 : 0)]);
  header.writeBigUInt64BE(BigInt(length), 2);
  return header;
}

/** What the table says of one frame, or of a text in fragments, as bytes. */
function bytesOf(part) {
  if (part.fragments) return fragments(Buffer.from(textOf(part.fragments)), part.bytes, part.pings);
  const first = Number.parseInt(part.first, 16);
  if (part.announce) return Buffer.concat([announced(first, part.announce, true), randomBytes(4)]);
  const payload = Buffer.concat([Buffer.from(part.hex ?? "", "hex"), Buffer.from(textOf(part.text ?? ""))]);
  return frame(first, payload, part);
}

function fragments(payload, size, pings) {
  const frames = [];
  for (let start = 0, index = 0; start < payload.length; start += size, index += 1) {
    if (pings && index && index % pings === 0) frames.push(frame(0x89, Buffer.from(String(index / pings))));
    const isLast = start + size >= payload.length;
    frames.push(frame((isLast ? 0x80 : 0) | (index ? 0 : 1), payload.subarray(start, start + size)));
  }
  return Buffer.concat(frames);
}

function expected(answer) {
  if (typeof answer === "number") return { pong: Buffer.from(String(answer)).toString("hex") };
  if (typeof answer === "string") return { text: textOf(answer) };
  return { pong: answer.pong.repeat(answer.times ?? 1) };
}

async function runCase(each) {
  const fan = await Fan.open();
  const answers = (each.answers ?? []).map(expected);
  await fan.sendRaw(Buffer.concat(each.send.map(bytesOf)), each.segments);
  if (!each.answers_any) same(await fan.answers(answers.length), answers);
  if (each.close === undefined) fan.socket.close(1000);
  const { code } = await fan.ended;
  // `ws` says 1005 where there was no code.
  same(code, each.close === undefined ? 1000 : each.close ?? 1005);
  if (!each.answers_any) same(fan.heard, answers);
  same(fan.error?.message, undefined);
}

for (const each of TABLE.cases) await check(each.what, () => runCase(each));

await check("compression is offered, as is the default, and declined; what is sent arrives all the same", async () => {
  const fan = await Fan.open({ perMessageDeflate: { threshold: 0 } });
  same(fan.socket.extensions, "");
  fan.socket.send("x".repeat(20_000));
  same(await fan.answers(1), [{ text: NAMED.default }]);
  fan.socket.close(1000);
  await fan.ended;
});
await check("`touchline` is accepted where it is offered, beside a token that is never repeated", async () => {
  const fan = await Fan.open(["graphql-ws", "touchline.bearer.a.b.c", "touchline"]);
  same(fan.socket.protocol, "touchline");
  fan.socket.terminate();
});
await check("the client's own fragments, with its pings between them", async () => {
  const fan = await Fan.open();
  const registration = Buffer.from(NAMED.registration);
  for (let start = 0; start < registration.length; start += 3) {
    fan.socket.send(registration.subarray(start, start + 3), { binary: false, fin: start + 3 >= registration.length });
    if (start % 30 === 0) fan.socket.ping(`ping ${start}`);
    if (start % 60 === 0) fan.socket.pong("nobody asked");
  }
  await new Promise((resolve) => {
    fan.socket.on("message", resolve);
  });
  same(fan.heard.pop(), { text: NAMED.registered });
  const pongs = [];
  for (let start = 0; start < registration.length; start += 30) pongs.push({ pong: Buffer.from(`ping ${start}`).toString("hex") });
  same(fan.heard, pongs);
  fan.socket.close(4999, "é".repeat(61));
  same(await fan.ended, { code: 4999, reason: "é".repeat(61) });
});
await check("a fan who is pinged answers by itself and stays", async () => {
  const fan = await Fan.open();
  for (let pings = 0; pings < 3; pings += 1) await once(fan.socket, "ping");
  fan.socket.send("hello");
  same(await fan.answers(1), [{ text: NAMED.default }]);
  fan.socket.close();
  same((await fan.ended).code, 1005);
});
await check("another path than the stage is refused with 403 before the upgrade", async () => {
  const socket = new WebSocket(`ws://127.0.0.1:${FANS_PORT}/other`);
  socket.on("error", () => {});
  const [, response] = await once(socket, "unexpected-response");
  same(response.statusCode, 403);
  socket.terminate();
});

console.log(`${passed} ${failed}`);
process.exit(failed > 0 ? 1 : 0);
