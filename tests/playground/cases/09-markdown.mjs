// Markdown becomes the elements it stands for, the same however it streams in, and hostile lengths cost no time.

import assert from "node:assert/strict";

export const title = "markdown: forms, streaming, time";

/** Markdown and the markup of the nodes it becomes. */
const FORMS = [
  ["one\ntwo\n\nthree", "<p>one\ntwo</p><p>three</p>"],
  ["# a #\n\n### b", "<h4>a</h4><h6>b</h6>"],
  ["**bold** *it* ***both*** __b__ _i_ ~~s~~", "<p><strong>bold</strong> <em>it</em> <strong><em>both</em></strong> <strong>b</strong> <em>i</em> <s>s</s></p>"],
  ["**bold *in***", "<p><strong>bold <em>in</em></strong></p>"],
  ["2 * 3 * 4, snake_case_name, 5*", "<p>2 * 3 * 4, snake_case_name, 5*</p>"],
  ["`a*b*` ``c`d`` \\*no\\*", "<p><code>a*b*</code> <code>c`d</code> *no*</p>"],
  ["- a\n- b\n  - c\n\n  more\n- d", "<ul><li>a</li><li>b<ul><li>c</li></ul><p>more</p></li><li>d</li></ul>"],
  ["3. x\n4. y\n\n5. z", '<ol start="3"><li>x</li><li>y</li><li>z</li></ol>'],
  ["text\n- a\nlazy", "<p>text</p><ul><li>a\nlazy</li></ul>"],
  ["> q\n> > r", "<blockquote><p>q</p><blockquote><p>r</p></blockquote></blockquote>"],
  ["a\n\n---\n\nb", "<p>a</p><hr><p>b</p>"],
  ["a | b\n--|--\n1 | **2**", "<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td><strong>2</strong></td></tr></tbody></table>"],
  ["~~~\n```\n~~~", "<code>```</code>"],
  ["```js\nlet a;", "<code>let a;</code>"],
];

const HOSTILE = ["*".repeat(2e5), "[".repeat(2e5), "**a ".repeat(5e4), "[](".repeat(6e4), "`".repeat(99) + "x`".repeat(1e5), "_a".repeat(1e5), "> ".repeat(1e5), "- ".repeat(1e5), "- a\n" + "\n".repeat(1e5) + "x", "|".repeat(1e5) + "\n|-|" + "\n|".repeat(2e4), "# " + " ".repeat(1e5) + "x", "https://".repeat(3e4), "\\".repeat(2e5), "a\u0301".repeat(1e5)];

export async function test(run) {
  const { page } = await run.playground({ key: null });
  const results = await page.evaluate(
    async ([forms, hostile]) => {
      const { Prose } = await import("/playground/prose.js");
      const markup = (root) => {
        const copy = root.cloneNode(true);
        for (const noise of copy.querySelectorAll(".code-bar")) noise.remove();
        for (const wrapper of copy.querySelectorAll("figure, pre, .table")) wrapper.replaceWith(...wrapper.childNodes);
        for (const element of copy.querySelectorAll("*")) element.removeAttribute("dir");
        return copy.innerHTML;
      };
      const rendered = forms.map(([text]) => {
        const [whole, streamed] = [document.createElement("div"), document.createElement("div")];
        new Prose(whole).update(text);
        const growing = new Prose(streamed);
        for (let i = 0; i <= text.length; i += 1) growing.update(text.slice(0, i));
        return [markup(whole), markup(streamed)];
      });
      const times = hostile.map((text) => {
        const began = performance.now();
        new Prose(document.createElement("div")).update(text);
        return performance.now() - began;
      });
      return { rendered, times };
    },
    [FORMS, HOSTILE],
  );
  results.rendered.forEach(([whole, streamed], i) => {
    assert.equal(whole, FORMS[i][1], FORMS[i][0]);
    assert.equal(streamed, whole, `streamed: ${FORMS[i][0]}`);
  });
  results.times.forEach((ms, i) => assert.ok(ms < 2500, `${HOSTILE[i].slice(0, 20)}… took ${Math.round(ms)} ms`));
}
