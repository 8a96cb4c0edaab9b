// Answers that try to be more than text. None of it may run, load, or lie about where it leads.

import assert from "node:assert/strict";
import { saying } from "../sse.mjs";

export const title = "hostile markdown, pasted HTML, control characters";

const ANSWER = [
  "<script>window.hit = 1</script> <img src=x onerror='window.hit = 2'> <svg onload=window.hit=3>",
  "[a](javascript:window.hit=4) [b](JaVaScRiPt:window.hit=5) [c](java\tscript:window.hit=6) [d](data:text/html,<script>1</script>)",
  "[e](vbscript:x) [f](file:///etc/passwd) [g](/v1/models) [h](//evil.example) [i](blob:x) <javascript:alert(1)>",
  "[good](https://littoral.example/a?b=(c)) [mail](mailto:keeper@littoral.example) <https://auto.example/x> https://bare.example/y.",
  "![picture](https://evil.example/track.png)",
  "over\u202Eride \u2066isolate\u2069 bell\u0007 escape\u001B[31m null\u0000 next\u0085line zero\u200Bwidth \uFEFFmark tag\u{E0041} family \u{1F468}\u200D\u{1F469}",
  "```html\n<script>window.hit = 7</script>\n```",
  "# <b>head</b>\n\n> <iframe src=https://evil.example></iframe>\n\n| <i>a</i> | [x](javascript:1) |\n|---|---|\n| `<u>` | 2 |",
].join("\n\n");

export async function test(run) {
  const playground = await run.playground();
  const { page } = playground;
  const foreign = [];
  page.on("request", (request) => !request.url().startsWith(run.base) && !request.url().startsWith("data:") && foreign.push(request.url()));
  await playground.crafted(saying(ANSWER));

  const pasted = "<img src=x onerror=alert(1)><script>alert(2)</script> **not markdown** \u202Ereversed";
  assert.equal(await playground.ask(pasted), "done");
  assert.equal(await page.locator(".turn.user .said").innerText(), pasted.replace("\u202E", "\u27E8U+202E\u27E9"), "a message is shown as it was typed");

  const prose = playground.last.locator(".prose");
  const text = await prose.innerText();
  assert.equal(await page.evaluate(() => window.hit), undefined, "nothing ran");
  assert.equal(await page.locator("#turns :is(script, img, svg, iframe, object, embed, form, input, style, b, i, u)").count(), 0);
  assert.ok(text.includes("<script>window.hit = 1</script>"), "markup is shown as text");
  for (const shown of ["[a](javascript:window.hit=4)", "[d](data:text/html", "[f](file:///etc/passwd)", "[h](//evil.example)"]) assert.ok(text.includes(shown), shown);

  const links = await prose.locator("a").evaluateAll((all) => all.map((a) => [a.href, a.target, a.rel, a.title]));
  const expected = ["https://littoral.example/a?b=(c)", "mailto:keeper@littoral.example", "https://auto.example/x", "https://bare.example/y", "https://evil.example/track.png", "https://evil.example/"];
  assert.deepEqual(links, expected.map((href) => [href, "_blank", "noopener noreferrer", href]));

  for (const shown of ["over\u27E8U+202E\u27E9ride", "\u27E8U+2066\u27E9isolate", "bell\u2407", "escape\u241B[31m", "null\u2400", "next\u27E8U+0085\u27E9line", "zerowidth", "tag\u27E8U+E0041\u27E9", "\u{1F468}\u200D\u{1F469}"]) {
    assert.ok(text.includes(shown), `${shown} in ${text}`);
  }
  await playground.last.getByRole("button", { name: "Copy code" }).click();
  await playground.last.getByRole("button", { name: "Copied" }).waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), "<script>window.hit = 7</script>");
  await page.reload();
  assert.equal(await page.evaluate(() => window.hit), undefined, "nothing ran from the kept conversation either");
  assert.deepEqual(foreign, [], "nothing was loaded from elsewhere");
}
