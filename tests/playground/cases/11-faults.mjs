// Everything that can fail between page and node is said in words, with what to do, and a retry mends it.

import assert from "node:assert/strict";
import { cut, failing, refused, saying } from "../sse.mjs";

export const title = "node down, network loss, broken streams: explained, then retried";

/** What comes back, what the page says of it, and whether text had come before. */
const FAULTS = [
  [refused(503, "service_unavailable", "no node is ready for this model", { "retry-after": "7" }), ["No node can answer right now.", "wait 7 seconds", "no node is ready", "req-crafted"], ""],
  [refused(429, "rate_limit", "slow down", { "retry-after": "1" }), ["Too many requests", "wait 1 second."], ""],
  [refused(400, "context_length_exceeded", "the prompt has 9,000 tokens"), ["longer than the model can read", "9,000"], ""],
  [refused(400, "model_not_found", "Model Not Exist"), ["No node serves this model"], ""],
  [refused(413, "request_too_large", "larger than 8388608 bytes"), ["larger than the server takes"], ""],
  [refused(500, "internal_error", "a policy of this server failed"), ["The server failed.", "req-crafted"], ""],
  [{ status: 502, contentType: "text/html", body: "<h1>Bad Gateway</h1>" }, ["No node can answer right now."], ""],
  [{ status: 200, contentType: "text/html", body: "<h1>Please log in</h1>" }, ["not an answer of this API"], ""],
  [null, ["The server cannot be reached.", "See whether it runs"], ""],
  [cut("Half a sen"), ["ended before its end", "What arrived is kept"], "Half a sen"],
  [cut("Half a sen", failing("overloaded", "the node is draining")), ["No node can answer", "the node is draining"], "Half a sen"],
  [cut("Half a sen", "data: {not json\n\n"), ["not an answer of this API"], "Half a sen"],
];

export async function test(run) {
  const playground = await run.playground();
  const { page } = playground;
  for (const [answer, words, text] of FAULTS) {
    await page.unroute("**/v1/chat/completions");
    await playground.crafted(answer);
    assert.equal(await playground.ask("Are you there?"), "failed");
    const fault = await playground.last.getByRole("alert").innerText();
    for (const expected of words) assert.ok(fault.includes(expected), `"${expected}" in: ${fault}`);
    assert.equal((await playground.last.locator(".prose").textContent()).trim(), text);

    await page.unroute("**/v1/chat/completions");
    await playground.crafted(saying("Here I am."));
    await playground.last.getByRole("button", { name: "Retry" }).click();
    await page.locator(".turn.answer:last-child[data-state=done]").waitFor();
    assert.equal(await playground.text(), "Here I am.");
    assert.equal(await playground.last.getByRole("alert").count(), 0, "the fault is gone");
    await page.getByRole("button", { name: "New chat" }).click();
  }
  await page.unroute("**/v1/chat/completions");
  await page.context().setOffline(true);
  assert.equal(await playground.ask("Anyone?"), "failed");
  await playground.last.getByText("This device is offline.").waitFor();
  await page.context().setOffline(false);
  await startup(run);
}

/** A page that is opened before any node is there finds the model once it has come. */
async function startup(run) {
  const playground = await run.playground({ key: null });
  const { page } = playground;
  await page.route("**/v1/models", (route) => route.fulfill({ json: { object: "list", data: [] } }));
  await playground.connect(run.key);
  await playground.send("Anyone?");
  await page.getByText("No node serves a model right now.").waitFor();
  assert.equal(await playground.prompt.inputValue(), "Anyone?");
  await page.unroute("**/v1/models");
  await page.locator("#model:not([disabled])").waitFor();
  await page.getByText("No node serves a model right now.").waitFor({ state: "hidden" });
  await playground.crafted(saying("Now I am."));
  await playground.prompt.press("Enter");
  assert.equal(await playground.ended(), "done");
}
