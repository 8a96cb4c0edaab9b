// Pictures of a real conversation, in light and dark and on a phone; and the theme that was chosen stays.

import assert from "node:assert/strict";

export const title = "themes and screenshots";

export async function test(run) {
  const playground = await run.playground({ colorScheme: "light", viewport: { width: 1100, height: 880 } });
  const { page } = playground;
  await run.shot(page, "welcome-light");
  await page.getByRole("button", { name: "Settings" }).click();
  await run.shot(page, "settings-light");
  await page.keyboard.press("Escape");
  await playground.set({ "Max tokens": 70, Temperature: 0 });
  await playground.ask("What is a lighthouse? One sentence.");
  await playground.ask("What is the tide? One sentence.");
  await playground.last.getByRole("button", { name: "Retry" }).click();
  await playground.last.getByText("From the cache").waitFor();
  await run.shot(page, "light");

  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await ground();
  const toggle = page.getByRole("button", { name: /^Theme/ });
  await toggle.click();
  assert.equal(await toggle.innerText(), "Theme: light");
  await toggle.click();
  assert.equal(await toggle.innerText(), "Theme: dark");
  const dark = await ground();
  assert.notEqual(dark, light);
  await page.reload();
  assert.equal(await ground(), dark, "the theme outlives a reload");
  await page.locator("#connect").waitFor({ state: "hidden" });
  await run.shot(page, "dark");
  await page.setViewportSize({ width: 320, height: 640 });
  await page.evaluate(() => scrollTo(0, document.documentElement.scrollHeight));
  await page.waitForTimeout(100);
  await run.shot(page, "phone-dark");
  await toggle.click();
  await run.shot(page, "phone-light");
}
