// One playground as a person uses it: what can be typed, pressed and read.

const DESK = { width: 1100, height: 800 };
/** A small model on a busy machine takes its time. */
const ANSWER_MS = 120_000;
/** Tokens that end an answer of the test model: `<|endoftext|>` and `<|im_end|>`. */
const ENDS = [0, 2];

export class Playground {
  page;
  #context;
  #complaints = [];

  constructor(context) {
    this.#context = context;
  }

  /** `options` are Playwright's for a browser context: viewport, colorScheme, bypassCSP. */
  static async open(browser, base, options = {}) {
    const context = await browser.newContext({ baseURL: base, viewport: DESK, locale: "en-GB", ...options });
    const playground = new Playground(context);
    await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: base });
    playground.page = await playground.tab();
    return playground;
  }

  /** Another tab of the same browser, at the playground. */
  async tab() {
    const page = await this.#context.newPage();
    page.setDefaultTimeout(15_000);
    page.on("pageerror", (error) => this.#complaints.push(`error: ${error.message}`));
    page.on("dialog", (dialog) => {
      this.#complaints.push(`dialog: ${dialog.message()}`);
      dialog.dismiss();
    });
    page.on("console", (message) => {
      // Chromium reports every refused or failed request; the cases that cause one look at what the page says of it.
      if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) this.#complaints.push(`console: ${message.text()}`);
    });
    await page.goto("/");
    return page;
  }

  /** Uncaught errors, dialogs and errors on the console, refusals of the content security policy among them. */
  complaints() {
    return this.#complaints;
  }

  close() {
    return this.#context.close();
  }

  async connect(key) {
    await this.page.getByLabel("API key", { exact: true }).fill(key);
    await this.page.getByRole("button", { name: "Connect" }).click();
    await this.page.locator("#connect").waitFor({ state: "hidden" });
  }

  get prompt() {
    return this.page.getByLabel("Message", { exact: true }).and(this.page.locator("textarea"));
  }

  get answers() {
    return this.page.locator(".turn.answer");
  }

  get last() {
    return this.answers.last();
  }

  /** Types and sends; does not wait for the answer. */
  async send(text) {
    await this.prompt.fill(text);
    await this.prompt.press("Enter");
  }

  /** Waits until the last answer has ended and returns its state. */
  async ended() {
    await this.page.locator(".turn.answer:last-child:not([data-state=streaming])").waitFor({ timeout: ANSWER_MS });
    return this.last.getAttribute("data-state");
  }

  /** Waits until the last answer has begun to show text. */
  async began() {
    await this.page.waitForFunction(() => document.querySelector("#turns > .answer:last-child .prose")?.textContent.length > 0, null, { timeout: ANSWER_MS });
  }

  async ask(text) {
    await this.send(text);
    return this.ended();
  }

  text() {
    return this.last.locator(".prose").innerText();
  }

  figure(name) {
    return this.last.locator(`[data-figure="${name}"] dd`).innerText();
  }

  /** Opens the settings, fills fields by their label, closes them. */
  async set(values) {
    await this.page.getByRole("button", { name: "Settings" }).click();
    for (const [label, value] of Object.entries(values)) {
      const field = this.page.locator("#settings").getByLabel(label, { exact: true });
      if (await field.evaluate((element) => element.tagName === "SELECT")) await field.selectOption(value);
      else await field.fill(String(value));
    }
    await this.page.getByRole("button", { name: "Done" }).click();
  }

  /** Lets the model end no answer of this page by itself, so that one that is to be met in its middle has a middle. */
  endless() {
    return this.page.route("**/v1/chat/completions", (route) => {
      const logit_bias = Object.fromEntries(ENDS.map((token) => [token, -100]));
      return route.continue({ postData: { ...route.request().postDataJSON(), logit_bias } });
    });
  }

  /** The lengths the last answer's text has had so far, each noted when the page drew it; call it before the answer begins. */
  async growth() {
    await this.page.evaluate(() => {
      window.lengths = new Set();
      const note = () => window.lengths.add(document.querySelector("#turns > .answer:last-child .prose")?.textContent.length ?? 0);
      new MutationObserver(note).observe(document.getElementById("turns"), { childList: true, characterData: true, subtree: true });
    });
    return () => this.page.evaluate(() => [...window.lengths].filter((length) => length > 0));
  }

  /** Lets every chat request of this page be answered by `answer`, an object for Playwright's `route.fulfill`. */
  crafted(answer) {
    return this.page.route("**/v1/chat/completions", (route) => (answer === null ? route.abort("connectionrefused") : route.fulfill(answer)));
  }
}
