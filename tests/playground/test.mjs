// The playground in a real browser: runs every file of cases/ in order, each in a fresh browser context.
//
// BASE_URL   the edge, default http://127.0.0.1:8080
// API_KEY    a key it accepts (required)
// SHOTS      folder for screenshots, default ./shots in the current folder
// CHROMIUM   the browser, default /usr/bin/chromium
// NODE_PID   process id of the only node; the last case kills it. Left out: that case is skipped
// ONLY       runs the cases whose file name contains this

import { mkdir, readdir } from "node:fs/promises";
import { resolve } from "node:path";
import { launch } from "./browser.mjs";
import { Playground } from "./playground.mjs";

const CASE_TIMEOUT_MS = 180_000;

const env = {
  base: (process.env.BASE_URL ?? "http://127.0.0.1:8080").replace(/\/(v1\/?)?$/, ""),
  key: process.env.API_KEY,
  shots: resolve(process.env.SHOTS ?? "shots"),
  nodePid: Number(process.env.NODE_PID ?? 0),
  only: process.env.ONLY ?? "",
};
if (!env.key) {
  console.error("API_KEY is not set: give a key that the edge accepts, and BASE_URL if the edge is not at http://127.0.0.1:8080");
  process.exit(2);
}

/** Thrown by a case that cannot run here; says why. */
class Skip extends Error {}

/** What a case is given. */
class Run {
  #browser;
  #open = [];

  constructor(browser) {
    this.#browser = browser;
    Object.assign(this, env);
  }

  skip(why) {
    throw new Skip(why);
  }

  /** A playground in a context of its own, with the key entered unless `key` says otherwise. */
  async playground({ key = env.key, ...options } = {}) {
    const playground = await Playground.open(this.#browser, env.base, options);
    this.#open.push(playground);
    if (key) await playground.connect(key);
    return playground;
  }

  /** Writes a screenshot; returns its path. */
  async shot(page, name, options = {}) {
    const path = `${env.shots}/${name}.png`;
    await page.screenshot({ path, ...options });
    console.log(`       ${path}`);
    return path;
  }

  async close() {
    const open = this.#open.splice(0);
    const complaints = open.flatMap((playground) => playground.complaints());
    await Promise.all(open.map((playground) => playground.close()));
    if (complaints.length > 0) throw new Error(`the page complained:\n  ${complaints.join("\n  ")}`);
  }

  /** Closes without looking at what the page said, and keeps a picture of where a case failed. */
  async abandon(name) {
    for (const playground of this.#open.splice(0)) {
      await this.shot(playground.page, `failed-${name}`).catch(() => {});
      await playground.close();
    }
  }
}

const limited = (promise) => {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`took longer than ${CASE_TIMEOUT_MS / 1000} s`)), CASE_TIMEOUT_MS)));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
};

await mkdir(env.shots, { recursive: true });
const folder = new URL("cases/", import.meta.url);
const files = (await readdir(folder)).filter((name) => name.endsWith(".mjs") && name.includes(env.only)).sort();
const browser = await launch();
const counts = { ok: 0, FAIL: 0, skip: 0 };
for (const file of files) {
  const { title, test } = await import(new URL(file, folder));
  const run = new Run(browser);
  const began = performance.now();
  let [outcome, detail] = ["ok", ""];
  try {
    await limited(test(run));
    await run.close();
  } catch (error) {
    outcome = error instanceof Skip ? "skip" : "FAIL";
    detail = outcome === "skip" ? error.message : error.stack;
    await run.abandon(file.replace(".mjs", ""));
  }
  counts[outcome] += 1;
  console.log(`${outcome.padEnd(5)}  ${title} (${((performance.now() - began) / 1000).toFixed(1)} s)${detail && `: ${detail}`}`);
}
await browser.close();
console.log(`${counts.ok} passed, ${counts.FAIL} failed, ${counts.skip} skipped; screenshots in ${env.shots}`);
process.exit(counts.FAIL > 0 || counts.ok === 0 ? 1 : 0);
