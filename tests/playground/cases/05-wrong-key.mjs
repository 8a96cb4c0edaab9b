// A key that is wrong is explained where it is typed; one that stops working, under the answer as well.

import assert from "node:assert/strict";
import { refused, saying } from "../sse.mjs";

export const title = "wrong key, and a key that is withdrawn";

export async function test(run) {
  const playground = await run.playground({ key: null });
  const { page } = playground;
  const field = page.getByLabel("API key", { exact: true });
  const alert = page.locator("#connect-fault");
  assert.ok(await field.evaluate((element) => element === document.activeElement), "a new tab asks for the key");
  await playground.send("Too early.");
  await alert.getByText("An API key is needed first.").waitFor();
  assert.equal(await page.locator(".turn").count(), 0);
  assert.equal(await playground.prompt.inputValue(), "Too early.", "the message is not lost");

  for (const [wrong, words] of [["lk_wrong_key", "Authentication Fails"], ["lk two words", "holds a blank"], ["ключ", "no key has"]]) {
    await field.fill(wrong);
    await field.press("Enter");
    await alert.getByText("does not accept this API key").waitFor();
    await alert.getByText(words).waitFor();
    assert.equal(await field.inputValue(), "");
  }
  await playground.connect(run.key);

  const message = "Authentication Fails (the API key has expired)";
  await playground.crafted(refused(401, "invalid_api_key", message));
  assert.equal(await playground.ask("Hello?"), "failed");
  await playground.last.getByText(message).waitFor();
  await playground.last.getByText("req-crafted").waitFor();
  assert.ok(await field.evaluate((element) => element === document.activeElement), "the key is asked for again");
  await page.unroute("**/v1/chat/completions");
  await playground.crafted(saying("Hello."));
  await playground.connect(run.key);
  await playground.last.getByRole("button", { name: "Retry" }).click();
  assert.equal(await playground.ended(), "done");
  assert.equal(await playground.text(), "Hello.");
}
