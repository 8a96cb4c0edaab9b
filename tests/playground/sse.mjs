// Crafted answers of the API, for what a small model cannot be made to say.

const HEADERS = { "x-littoral-node": "a", "x-littoral-cache": "miss; reason=deterministic", "x-request-id": "req-crafted" };

const event = (value) => `data: ${typeof value === "string" ? value : JSON.stringify(value)}\n\n`;

const chunk = (delta, finish = null, rest = {}) => ({
  id: "chatcmpl-crafted",
  object: "chat.completion.chunk",
  created: 1,
  model: "crafted",
  choices: [{ index: 0, delta, logprobs: null, finish_reason: finish }],
  ...rest,
});

const fulfilled = (body, headers = {}) => ({ status: 200, contentType: "text/event-stream", headers: { ...HEADERS, ...headers }, body });

/** A whole answer that says `text`, a few characters at a time. */
export function saying(text, headers) {
  const pieces = text.match(/[^]{1,40}/gu) ?? [];
  const usage = { prompt_tokens: 20, completion_tokens: pieces.length, total_tokens: 20 + pieces.length, prompt_cache_hit_tokens: 4 };
  const end = [chunk({ content: "" }, "stop", { usage }), "[DONE]"];
  return fulfilled([...pieces.map((content) => chunk({ content })), ...end].map(event).join(""), headers);
}

/** An answer that stops short: `text`, then `rest` as it stands. */
export const cut = (text, rest = "") => fulfilled(event(chunk({ content: text })) + rest);

/** The same answer as [`saying`], framed as a picky proxy might: comments, CRLF, and a field this page does not know. */
export function reframed(text) {
  const answer = saying(text);
  return { ...answer, body: `: keep-alive\r\n\r\nretry: 10\r\n\r\n${answer.body.replaceAll("\n", "\r\n")}` };
}

/** An error event. */
export const failing = (code, message) => event({ error: { message, type: "server_error", param: null, code } });

/** A refusal before the stream. */
export const refused = (status, code, message, headers = {}) => ({
  status,
  contentType: "application/json",
  headers: { "x-request-id": "req-crafted", ...headers },
  body: JSON.stringify({ error: { message, type: "server_error", param: null, code } }),
});
