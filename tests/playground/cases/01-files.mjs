// The page is served as the browser needs it, and as nobody else may use it.

import assert from "node:assert/strict";

export const title = "files, types, validators and the content security policy";

export async function test({ base }) {
  const document = await fetch(`${base}/`);
  assert.equal(document.status, 200);
  const html = await document.text();
  assert.ok(!/<script(?![^>]* src=)|<style| on\w+=| style=/i.test(html), "inline script or style");
  const policy = document.headers.get("content-security-policy");
  for (const part of ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "img-src 'self' data:", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]) {
    assert.ok(policy.split("; ").includes(part), `${part} in ${policy}`);
  }
  const kinds = { css: "text/css; charset=utf-8", js: "text/javascript; charset=utf-8", svg: "image/svg+xml" };
  for (const path of new Set(html.match(/\/playground\/[\w.-]+/g))) {
    const file = await fetch(base + path);
    assert.equal(file.status, 200, path);
    assert.equal(file.headers.get("content-type"), kinds[path.split(".").at(-1)], path);
    assert.equal(file.headers.get("x-content-type-options"), "nosniff", path);
    assert.equal(file.headers.get("referrer-policy"), "no-referrer", path);
    assert.equal(file.headers.get("cache-control"), "no-cache", path);
    const again = await fetch(base + path, { headers: { "if-none-match": file.headers.get("etag") } });
    assert.equal(again.status, 304, path);
    assert.equal(await again.text(), "", path);
  }
  assert.equal((await fetch(`${base}/playground/nothing.js`)).status, 404);
  assert.equal((await fetch(`${base}/`, { method: "POST", body: "x" })).status, 405);
}
