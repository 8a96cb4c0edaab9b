// The API as the page uses it: the list of models, and a chat that streams.

import { Fault, ofEvent, ofNetwork, ofResponse } from "./fault.js";
import { events } from "./sse.js";

/** Characters an HTTP header may carry in a token; a key with any other was not copied whole. */
const SENDABLE = /^[\x21-\x7e]+$/;

/** The names of the models served. Throws a [`Fault`]. */
export async function models(key) {
  const response = await call("/v1/models", key, {});
  const list = await response.json().catch(() => null);
  if (!Array.isArray(list?.data)) throw new Fault("foreign");
  return list.data.map((model) => String(model.id));
}

/**
 * Asks for an answer and yields what comes of it: once `{head: {node, cache, requestId}}`, then `{text}`,
 * `{reasoning}`, `{finish}` and `{usage}` in the order of the stream. Throws a [`Fault`], or the signal's own error.
 */
export async function* chat(key, request, { cacheControl, signal }) {
  const headers = { "content-type": "application/json", ...(cacheControl && { "cache-control": cacheControl }) };
  const body = JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } });
  const response = await call("/v1/chat/completions", key, { method: "POST", headers, body, signal });
  const requestId = response.headers.get("x-request-id") ?? "";
  if (!response.headers.get("content-type")?.startsWith("text/event-stream")) throw new Fault("foreign", { requestId });
  yield { head: { node: response.headers.get("x-littoral-node") ?? "", cache: response.headers.get("x-littoral-cache") ?? "", requestId } };
  for await (const { data } of framed(response.body, requestId, signal)) {
    if (data === "[DONE]") return;
    yield* parts(data, requestId);
  }
  throw new Fault("early", { requestId });
}

async function call(path, key, { headers, signal, ...rest }) {
  if (!SENDABLE.test(key)) throw new Fault("key", { message: key === "" ? "The key is empty." : "The key holds a blank or a sign that no key has." });
  const authorised = { ...headers, authorization: `Bearer ${key}` };
  let response;
  try {
    response = await fetch(path, { ...rest, headers: authorised, signal, credentials: "omit", redirect: "error" });
  } catch (error) {
    throw signal?.aborted ? error : ofNetwork(false);
  }
  if (!response.ok) throw await ofResponse(response);
  return response;
}

/** The events of a body, with a broken connection told apart from a stop. */
async function* framed(body, requestId, signal) {
  try {
    yield* events(body);
  } catch (error) {
    throw signal.aborted ? error : ofNetwork(true, requestId);
  }
}

/** What one chunk holds for the page. */
function* parts(data, requestId) {
  let chunk;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new Fault("foreign", { requestId });
  }
  if (chunk?.error) throw ofEvent(chunk.error, requestId);
  const choice = chunk?.choices?.find((c) => c.index === 0);
  if (choice?.delta?.reasoning_content) yield { reasoning: String(choice.delta.reasoning_content) };
  if (choice?.delta?.content) yield { text: String(choice.delta.content) };
  if (choice?.finish_reason) yield { finish: String(choice.finish_reason) };
  if (chunk?.usage) yield { usage: chunk.usage };
}
