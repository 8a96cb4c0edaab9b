// The only node dies in the middle of an answer, and stays dead: the page says both. Comes last: the node is gone after it.

import assert from "node:assert/strict";

export const title = "the node is killed in the middle of an answer";

export async function test(run) {
  if (!run.nodePid) run.skip("NODE_PID is not set, so there is no node to kill");
  const playground = await run.playground();
  await playground.endless();
  await playground.send("Write a very long story about a shipwreck, with many chapters.");
  await playground.began();
  process.kill(run.nodePid, "SIGKILL");
  assert.equal(await playground.ended(), "failed");
  assert.ok((await playground.text()).length > 0, "what arrived is kept");
  assert.notEqual(await playground.last.getByRole("alert").innerText(), "");

  assert.equal(await playground.ask("Are you there?"), "failed");
  const fault = await playground.last.getByRole("alert").innerText();
  assert.match(fault, /No node (can answer right now|serves this model)/);
  assert.ok(fault.includes("Request id:"), fault);
  await run.shot(playground.page, "node-down");
}
