// One fan's WebSocket: registers with protocol 2, hands over what is newest, and comes back by
// itself. Knows nothing of the page that shows it.

/**
 * API Gateway ends a connection after two hours: leave before it does, each at a time of its own, so
 * that those who came together do not come back together.
 */
const CONNECTION_AGE_MS_MIN = 95 * 60 * 1000;
const CONNECTION_AGE_MS_MAX = 115 * 60 * 1000;
/** A connection that is not open by then is tried again. */
const CONNECT_TIMEOUT_MS = 10_000;
/** A connection that held for so long was a good one: the next attempt is a first attempt. */
const GOOD_AGE_MS = 5_000;
const BACK_OFF_MS_FIRST = 250;
const BACK_OFF_MS_MAX = 20_000;
/** A server's advice is followed up to this. */
const RETRY_AFTER_MS_MAX = 60_000;

/**
 * Full jitter: anywhere between nothing and a ceiling that doubles, so that a crowd that was cut off
 * together does not come back together.
 */
export function backOffMs(attempt, random = Math.random) {
  return random() * Math.min(BACK_OFF_MS_MAX, BACK_OFF_MS_FIRST * 2 ** attempt);
}

/**
 * Whether a message may replace what is shown, given the position of the newest message so far:
 * within one epoch nothing older. What has no position always applies.
 */
export function applies(position, message) {
  return !position || !message.sequence || position.epoch !== message.epoch || message.sequence >= position.sequence;
}

/** When a server that sends fans to others says to come back, in the reason that it closes with. */
export function retryAfterMs(reason) {
  try {
    const ms = JSON.parse(reason)?.retry_after_ms;
    return Number.isFinite(ms) && ms >= 0 ? Math.min(ms, RETRY_AFTER_MS_MAX) : null;
  } catch {
    return null; // Another reason, for people.
  }
}

/**
 * Connects a fan. Calls `onComponents(message)`, `onEnded(eventId)` and
 * `onState("connecting" | "connected" | "waiting")`. Returns `ask()`, which asks for the newest set
 * (and is told nothing if the one shown still stands), and `close()`.
 */
export function connectFan({ url, consumerId, deviceId, contentId, onComponents, onEnded, onState }) {
  const positions = new Map();
  let newest = null;
  let attempt = 0;
  let socket = null;
  let timer = null;
  let closed = false;

  function open() {
    clearTimeout(timer);
    timer = null;
    onState("connecting");
    const mine = (socket = new WebSocket(url));
    let openedAt = null;
    let renewed = false;
    let limit = setTimeout(() => mine.close(), CONNECT_TIMEOUT_MS);
    mine.onopen = () => {
      clearTimeout(limit);
      openedAt = performance.now();
      const age = CONNECTION_AGE_MS_MIN + Math.random() * (CONNECTION_AGE_MS_MAX - CONNECTION_AGE_MS_MIN);
      limit = setTimeout(() => {
        renewed = true;
        mine.close(1000, "renewed");
      }, age);
      register();
      onState("connected");
    };
    mine.onmessage = ({ data }) => {
      attempt = 0;
      receive(data);
    };
    mine.onclose = ({ reason }) => {
      clearTimeout(limit);
      if (closed) return;
      onState("waiting");
      if (openedAt !== null && performance.now() - openedAt > GOOD_AGE_MS) attempt = 0;
      timer = setTimeout(open, renewed ? 0 : (retryAfterMs(reason) ?? backOffMs(attempt++)));
    };
  }

  function register() {
    socket.send(
      JSON.stringify({
        action: "sendmessage",
        protocol: 2,
        consumer_id: consumerId,
        device_id: deviceId,
        content_id: contentId,
        ...(newest && { set_id: newest.set_id }),
      }),
    );
  }

  function receive(text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return; // Not of this protocol.
    }
    if (message.type === "components") {
      if (!applies(positions.get(message.event_id), message)) return;
      const { epoch, sequence } = message;
      if (sequence) positions.set(message.event_id, { epoch, sequence });
      newest = message;
      onComponents(message);
    } else if (message.type === "ended") {
      // What comes late of an earlier time does not bring the event back.
      if (!applies(positions.get(message.event_id), message)) return;
      const { epoch, sequence } = message;
      if (sequence) positions.set(message.event_id, { epoch, sequence });
      if (newest?.event_id === message.event_id) newest = null;
      onEnded(message.event_id);
    } else if (message.type === "error") {
      console.warn(`fan ${consumerId}: ${message.code}: ${message.message}`);
    }
  }

  /** The network is back: whoever waits need not wait any longer. */
  function online() {
    if (timer !== null) open();
  }

  globalThis.addEventListener?.("online", online);
  open();
  return {
    ask() {
      if (socket.readyState === WebSocket.OPEN) register();
    },
    close() {
      closed = true;
      clearTimeout(timer);
      globalThis.removeEventListener?.("online", online);
      socket.close(1000);
    },
  };
}
