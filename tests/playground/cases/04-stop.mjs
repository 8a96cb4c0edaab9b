// An answer stops by key and by button, keeps what it has, and the conversation goes on.

import assert from "node:assert/strict";

export const title = "stop by Esc and by button";

export async function test(run) {
  const playground = await run.playground();
  const { page } = playground;
  await playground.endless();
  const stops = [() => page.keyboard.press("Escape"), () => page.getByRole("button", { name: "Stop" }).click()];
  for (const stop of stops) {
    await playground.send("Write a very long story about a lighthouse keeper, with many chapters.");
    await playground.began();
    await page.getByRole("button", { name: "Stop" }).waitFor();
    assert.ok(await page.getByRole("button", { name: "Send" }).isHidden());
    await stop();
    assert.equal(await playground.ended(), "stopped");
    await playground.last.getByText("Stopped by you.").waitFor();
    const kept = await playground.text();
    assert.ok(kept.length > 0);
    await page.waitForTimeout(300);
    assert.equal(await playground.text(), kept, "nothing comes after a stop");
    await page.getByRole("button", { name: "Send" }).waitFor();
  }
  await playground.set({ "Max tokens": 4 });
  assert.equal(await playground.ask("Write another long story."), "done");
  await playground.last.getByText("Ended at the limit of tokens.").waitFor();
}
