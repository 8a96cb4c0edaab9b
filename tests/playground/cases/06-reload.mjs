// A page that is reloaded in the middle of an answer keeps what had come and says that it was cut. It can ask again at
// once, before it knows which models there are.

import assert from "node:assert/strict";

export const title = "reload in the middle of an answer";

/** The letters and digits: marks of Markdown go when what they stand for is whole. */
const plain = (text) => text.replace(/[^\p{L}\p{N}]/gu, "");

export async function test(run) {
  const playground = await run.playground();
  const { page } = playground;
  await playground.endless();
  // Longer than a reload takes on a busy machine.
  await playground.set({ "Max tokens": 1500 });
  await playground.send("Count from one to one thousand in words, a line for each number: one, two, three, and so on.");
  await playground.began();
  // The beginning of what is there: its end may yet become something else.
  while (plain(await playground.text()).length < 60) await page.waitForTimeout(20);
  const before = plain(await playground.text()).slice(0, 16);
  const model = await page.locator("#model").inputValue();
  let list;
  await page.route("**/v1/models", (route) => {
    list = () => route.continue();
  });
  await page.reload();
  assert.equal(await playground.ended(), "stopped");
  await playground.last.getByText("the page was reloaded while this answer was being written").waitFor();
  assert.ok(plain(await playground.text()).startsWith(before), "what had arrived is kept");
  await playground.set({ "Max tokens": 8 });
  await playground.last.getByRole("button", { name: "Retry" }).click();
  await page.locator(".turn.answer:last-child[data-state=done]").waitFor({ timeout: 60_000 });
  assert.equal(await playground.answers.count(), 1);
  await list();
  assert.equal(await page.locator("#model").inputValue(), model);
}
