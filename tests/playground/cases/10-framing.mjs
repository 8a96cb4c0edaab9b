// The stream may be cut anywhere and framed in every way the standard allows.

import assert from "node:assert/strict";
import { reframed } from "../sse.mjs";

export const title = "server-sent events in any framing";

export async function test(run) {
  const playground = await run.playground();
  const events = await playground.page.evaluate(async () => {
    const { events, Parser } = await import("/playground/sse.js");
    const stream = "\uFEFF: comment\n\ndata: é𝄞\n\nevent: error\r\ndata: one\r\ndata: two\r\n\r\ndata\rdata:x\r\rid: 7\nretry: 1\n\ndata: [DONE]\n\ndata: cut";
    const bytes = new TextEncoder().encode(stream);
    const collect = async (size) => {
      const body = new ReadableStream({
        start(controller) {
          for (let i = 0; i < bytes.length; i += size) controller.enqueue(bytes.slice(i, i + size));
          controller.close();
        },
      });
      const found = [];
      for await (const event of events(body)) found.push(event);
      return found;
    };
    return { one: await collect(1), seven: await collect(7), whole: await collect(bytes.length), none: new Parser().push("data: x\n") };
  });
  const expected = [
    { event: "message", data: "é𝄞" },
    { event: "error", data: "one\ntwo" },
    { event: "message", data: "\nx" },
    { event: "message", data: "[DONE]" },
  ];
  assert.deepEqual(events.one, expected);
  assert.deepEqual(events.seven, expected);
  assert.deepEqual(events.whole, expected);
  assert.deepEqual(events.none, []);

  await playground.crafted(reframed("The tide is out."));
  assert.equal(await playground.ask("Well?"), "done");
  assert.equal(await playground.text(), "The tide is out.");
}
