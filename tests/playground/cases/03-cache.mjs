// A repeatable request is written once and answered from the cache after that, and the page says so.

import assert from "node:assert/strict";

export const title = "retry, and the cache's verdict in words";

export async function test(run) {
  const playground = await run.playground();
  const why = () => playground.last.locator(".why").innerText();
  // A seed of this run's own: nobody has asked for this answer before.
  await playground.set({ "Max tokens": 24, Seed: Date.now() });
  await playground.ask("Name three fish.");
  assert.equal(await playground.figure("Cache"), "miss");
  assert.match(await why(), /Not in the cache yet.*a seed makes the answer repeatable/s);
  const written = await playground.text();

  await playground.last.getByRole("button", { name: "Retry" }).click();
  await playground.last.getByText("From the cache").waitFor();
  // The verdict comes with the head, the text after it.
  assert.equal(await playground.ended(), "done");
  assert.equal(await playground.figure("Cache"), "hit");
  assert.match(await why(), /kept (less than a second|\d+ (second|minute)s?) ago/);
  assert.equal(await playground.text(), written, "the same answer");
  assert.equal(await playground.answers.count(), 1, "a retry replaces the answer");
  assert.ok(await playground.prompt.evaluate((element) => element === document.activeElement), "the focus is not lost with the button");
  assert.equal(await playground.last.locator('[data-figure="Speed"]').count(), 0, "a replay has no speed of its own");

  await playground.set({ Cache: "no-cache" });
  await playground.last.getByRole("button", { name: "Retry" }).click();
  await playground.last.getByText("a fresh answer was asked for").waitFor({ timeout: 60_000 });
  assert.equal(await playground.ended(), "done");
  await playground.set({ Cache: "no-store" });
  await playground.last.getByRole("button", { name: "Retry" }).click();
  await playground.last.getByText("asked to be kept out").waitFor({ timeout: 60_000 });
  assert.equal(await playground.ended(), "done");

  await playground.set({ Temperature: 3 }).catch(() => {});
  await playground.send("Not sent.");
  await playground.page.getByText("Temperature takes a number from 0 to 2.").waitFor();
  assert.equal(await playground.answers.count(), 1, "what the API refuses is not sent");
}
