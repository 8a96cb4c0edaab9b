// Two tabs of one browser: two keys, two conversations, two answers at once.

import assert from "node:assert/strict";

export const title = "two tabs do not disturb each other";

export async function test(run) {
  const playground = await run.playground();
  const first = playground.page;
  await playground.set({ "Max tokens": 40 });
  playground.page = await playground.tab();
  await playground.connect(run.key);
  assert.equal(await playground.page.getByLabel("Max tokens").inputValue(), "", "settings are a tab's own");
  await playground.set({ "Max tokens": 40 });
  await playground.send("Tell me about harbours.");
  const second = playground.page;
  playground.page = first;
  await playground.send("Tell me about whales.");
  await playground.ended();
  playground.page = second;
  await playground.ended();
  for (const [page, asked] of [[first, "Tell me about whales."], [second, "Tell me about harbours."]]) {
    await page.reload();
    assert.deepEqual(await page.locator(".turn.user .said").allInnerTexts(), [asked]);
    assert.equal(await page.locator(".turn.answer[data-state=done]").count(), 1);
  }
}
