// What can go wrong between the page and an answer, each kind with words for it and for what to do.

/** `kind` is a key of the table below; `message` is the server's own sentence, if it gave one. */
export class Fault extends Error {
  constructor(kind, { message = "", requestId = "", retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { kind, requestId, retryAfter });
  }
}

/** Title and advice for each kind. */
const WORDS = {
  key: ["The server does not accept this API key.", "Paste the key the server printed when it first started, whole and without blanks."],
  balance: ["The account has no balance left.", "Top it up, or use another key."],
  permission: ["This key may not do that.", "Use a key that is allowed to, or ask the server's keeper."],
  model: ["No node serves this model.", "Choose another model above."],
  long: ["The conversation is longer than the model can read.", "Shorten the message, or start a new chat."],
  large: ["The message is larger than the server takes.", "Send it in parts."],
  invalid: ["The server did not understand the request.", "Look at the settings; what it says names the one at fault."],
  rate: ["Too many requests at once.", "Wait a little, then retry."],
  down: ["No node can answer right now.", "The nodes are full, starting or down. Retry; if it stays so, look at the server's log."],
  late: ["The answer was not ready in time.", "Retry, or ask for a shorter answer with Max tokens."],
  server: ["The server failed.", "Retry; if it stays so, the request id finds the cause in the server's log."],
  offline: ["This device is offline.", "Connect it to the network, then retry."],
  network: ["The server cannot be reached.", "See whether it runs and whether the network is there, then retry."],
  broken: ["The connection broke in the middle of the answer.", "What arrived is kept. Retry for a whole answer."],
  early: ["The answer ended before its end.", "What arrived is kept. Retry for a whole answer."],
  foreign: ["What came back is not an answer of this API.", "A proxy may stand in between: open the page at the server's own address."],
};

/** `{title, advice, detail, requestId}` for a person. `detail` is what the server said, when it adds something. */
export function explained(fault) {
  const [title, advice] = WORDS[fault.kind] ?? WORDS.server;
  const wait = fault.retryAfter === null ? "" : ` The server suggests to wait ${seconds(fault.retryAfter)}.`;
  return { title, advice: advice + wait, detail: fault.message, requestId: fault.requestId };
}

const seconds = (n) => (n === 1 ? "1 second" : `${n} seconds`);

/** The fault behind a response that is not a success. */
export async function ofResponse(response) {
  const error = await response.json().then((body) => body?.error, () => null);
  return new Fault(ofStatus(response.status, error?.code), {
    message: typeof error?.message === "string" ? error.message : "",
    requestId: response.headers.get("x-request-id") ?? "",
    retryAfter: retryAfter(response.headers.get("retry-after")),
  });
}

/** The fault that an error event of a stream tells of. */
export function ofEvent(error, requestId) {
  const byCode = { overloaded: "down", service_unavailable: "down", deadline_exceeded: "late" };
  const kind = byCode[error?.code] ?? ofStatus(error?.type === "server_error" ? 500 : 400, error?.code);
  return new Fault(kind, { message: typeof error?.message === "string" ? error.message : "", requestId });
}

/** The fault behind a request that got no response, or lost it half-way. */
export function ofNetwork(begun, requestId = "") {
  if (!navigator.onLine) return new Fault("offline", { requestId });
  return new Fault(begun ? "broken" : "network", { requestId });
}

function ofStatus(status, code) {
  if (code === "model_not_found") return "model";
  if (code === "context_length_exceeded") return "long";
  const kinds = { 401: "key", 402: "balance", 403: "permission", 408: "network", 413: "large", 429: "rate", 502: "down", 503: "down", 504: "late" };
  return kinds[status] ?? (status >= 500 ? "server" : "invalid");
}

/** Seconds to wait: the header is a number of them, or a date (RFC 9110, section 10.2.3). */
function retryAfter(value) {
  if (value === null) return null;
  const seconds = /^\d+$/.test(value) ? Number(value) : Math.ceil((Date.parse(value) - Date.now()) / 1000);
  return Number.isFinite(seconds) ? Math.max(seconds, 0) : null;
}
