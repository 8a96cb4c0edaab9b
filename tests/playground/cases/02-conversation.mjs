// The way of a message through the real model: typed, streamed, measured, continued, kept, copied.

import assert from "node:assert/strict";

export const title = "type, stream, figures, copy, keyboard, reload";

export async function test(run) {
  const playground = await run.playground();
  const { page, prompt } = playground;
  assert.notEqual(await page.getByLabel("Model").inputValue(), "", "a model is chosen");
  assert.ok(await prompt.evaluate((element) => element === document.activeElement), "the message box has the focus");

  await playground.endless();
  // Longer than a stall of the machine, which would show at once what came meanwhile.
  await playground.set({ "Max tokens": 256, "System prompt": "You are a kind harbour master." });
  await prompt.focus();
  await prompt.pressSequentially("Tell me of");
  await prompt.press("Shift+Enter");
  await prompt.pressSequentially("the sea.");
  assert.equal(await prompt.inputValue(), "Tell me of\nthe sea.");
  const growth = await playground.growth();
  await prompt.press("Enter");
  assert.equal(await prompt.inputValue(), "", "the box is empty again");
  assert.equal(await page.locator(".turn.user .said").last().innerText(), "Tell me of\nthe sea.");

  assert.equal(await playground.ended(), "done");
  const lengths = await growth();
  assert.ok(lengths.length >= 3, `the answer grew in steps: ${lengths}`);
  assert.match(await playground.figure("TTFT"), /^[\d.]+ m?s$/);
  assert.match(await playground.figure("Speed"), /^[\d.,]+ tokens\/s$/);
  assert.match(await playground.figure("Answer"), /^\d+ tokens?$/);
  assert.match(await playground.figure("Prompt"), /^\d+ tokens/);
  assert.notEqual(await playground.figure("Node"), "");
  assert.equal(await playground.figure("Cache"), "bypass");
  assert.match(await playground.last.locator(".why").innerText(), /random.*temperature 0 or a seed/s);
  assert.ok(await prompt.evaluate((element) => element === document.activeElement), "the focus stayed");
  const spoken = await page.locator("#announcer").innerText();
  assert.ok(spoken.startsWith("Answer: "), `announced once, whole: ${spoken}`);

  await playground.last.getByRole("button", { name: "Copy", exact: true }).click();
  await playground.last.getByRole("button", { name: "Copied" }).waitFor();
  const copied = await page.evaluate(() => navigator.clipboard.readText());
  assert.ok(copied.length > 0 && copied.slice(0, 10).trim() !== "");

  const before = await playground.text();
  await page.reload();
  assert.equal(await playground.text(), before, "the conversation survives a reload");
  await page.locator("#connect").waitFor({ state: "hidden" });
  await playground.ask("And of the shore?");
  assert.equal(await playground.answers.count(), 2);
  const kept = await page.evaluate(() => [JSON.stringify(localStorage), document.cookie, sessionStorage.getItem("littoral.key")]);
  assert.ok(!kept[0].includes(run.key) && !kept[1].includes(run.key) && kept[2] === run.key, "the key is in sessionStorage only");

  await page.getByRole("button", { name: "New chat" }).click();
  await page.locator(".turn").first().waitFor({ state: "detached" });
  assert.equal(await page.locator(".turn").count(), 0);
}
