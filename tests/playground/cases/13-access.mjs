// Everybody can use it: axe finds nothing serious in any state of the page, in light and dark, at the desk and on a phone.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { refused, saying } from "../sse.mjs";

export const title = "accessibility in every state, keyboard order, 320 pixels";

const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const PHONE = { width: 320, height: 640 };
const RICH = [
  "## A heading\n\nA paragraph with `code`, **weight** and [a link](https://littoral.example).",
  "```rust\nfn main() { println!(\"a line of code that is wider than any phone that will ever show it, surely\"); }\n```",
  "| tide | time | height in metres above the chart's datum |\n|---|---|---|\n| high | 04:12 | 3.9 |",
  "- one\n- two\n\n> quoted\n\n" + "unbreakable".repeat(30),
].join("\n\n");

export async function test(run) {
  for (const [colorScheme, viewport] of [["light", undefined], ["dark", undefined], ["light", PHONE], ["dark", PHONE]]) {
    // The policy would keep axe out; the page itself is tested under it everywhere else.
    const options = { colorScheme, bypassCSP: true, ...(viewport && { viewport, hasTouch: true, isMobile: true }) };
    const playground = await run.playground({ key: null, ...options });
    const { page } = playground;
    const where = `${colorScheme}, ${viewport ? "phone" : "desk"}`;
    await page.evaluate(axe);
    const check = async (state) => {
      const { violations } = await page.evaluate(() => window.axe.run());
      const grave = violations.filter((v) => ["serious", "critical"].includes(v.impact));
      assert.deepEqual(grave.map((v) => `${v.id}: ${v.nodes.map((n) => `${n.target} ${n.failureSummary}`).join("; ")}`), [], `${where}, ${state}`);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.equal(wide, 0, `${where}, ${state}: no horizontal scrolling`);
    };
    await check("asking for a key");
    await playground.connect(run.key);
    await check("welcome");
    await playground.crafted(saying(RICH));
    await playground.ask("Show me everything. ".repeat(6));
    await check("an answer");
    await page.unroute("**/v1/chat/completions");
    await playground.crafted(refused(503, "service_unavailable", "no node is ready", { "retry-after": "3" }));
    await playground.ask("And now?");
    await check("a fault");
    await page.getByRole("button", { name: "Settings" }).click();
    await check("settings");
  }
  await keyboard(run);
}

/** Tab goes through the page as it reads, and every stop shows where it is. */
async function keyboard(run) {
  const { page } = await run.playground();
  await page.locator(".skip").focus();
  const stops = [];
  for (let i = 0; i < 12; i += 1) {
    const [name, visible] = await page.evaluate(() => {
      const element = document.activeElement;
      const ring = (of) => getComputedStyle(of).outlineStyle !== "none";
      return [element.id || element.className || element.textContent, ring(element) || ring(element.parentElement)];
    });
    stops.push(name);
    // What a script focuses first need not show it; what the keyboard reaches does.
    assert.ok(visible || i === 0, `${name} shows its focus`);
    if (name === "send") break;
    await page.keyboard.press("Tab");
  }
  const order = ["skip", "model", "new-chat", "settings-toggle", "theme", "prompt", "send"];
  assert.deepEqual(order.filter((name) => stops.includes(name)), stops.filter((name) => order.includes(name)), stops.join(", "));
  assert.ok(order.every((name) => stops.includes(name)), stops.join(", "));
}
