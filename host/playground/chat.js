// The conversation: who said what, and the one answer that may be on its way. Knows nothing of the page that shows it.

import { chat as ask } from "./api.js";
import { Fault, explained } from "./fault.js";
import { Meter } from "./meter.js";

/**
 * Turns are plain values, so that they can be kept: `{role: "user", text}` and `{role: "answer", text, reasoning, state,
 * model, ...}`, where `state` is `streaming`, `done`, `stopped` or `failed` and the rest tells how the answer came about.
 */
export class Chat {
  turns;
  #request;
  #changed;
  #running = null;

  /** `request()` gives what is asked with (`{key, model, system, parameters, cacheControl}`); `changed(turn)` is told of every change. */
  constructor(turns, request, changed) {
    this.turns = turns;
    this.#request = request;
    this.#changed = changed;
  }

  get busy() {
    return this.#running !== null;
  }

  /** Says `text` and resolves when its answer has ended, whichever way. */
  async send(text) {
    if (this.busy) return;
    this.turns.push({ role: "user", text });
    await this.#answer();
  }

  /** Asks for the last answer once more. */
  async retry() {
    if (this.busy || this.turns.at(-1)?.role !== "answer") return;
    this.turns.pop();
    await this.#answer();
  }

  /** Ends the answer on its way; what has arrived stays. The node stops with it. */
  stop() {
    this.#running?.abort();
  }

  /** Begins anew. */
  clear() {
    this.stop();
    this.turns = [];
    this.#changed(null);
  }

  async #answer() {
    const request = this.#request();
    const messages = this.#messages(request.system);
    const turn = { role: "answer", text: "", reasoning: "", state: "streaming", model: request.model };
    const running = new AbortController();
    this.#running = running;
    this.turns.push(turn);
    this.#changed(turn);
    const meter = new Meter();
    try {
      const body = { model: request.model, messages, ...request.parameters };
      for await (const part of ask(request.key, body, { cacheControl: request.cacheControl, signal: running.signal })) {
        take(turn, part, meter);
        this.#changed(turn);
      }
      turn.state = "done";
    } catch (error) {
      turn.state = running.signal.aborted ? "stopped" : "failed";
      if (turn.state === "failed") turn.fault = told(error);
      turn.figures = meter.figures();
    }
    if (this.#running === running) this.#running = null;
    this.#changed(turn);
  }

  /** The conversation as the API takes it. An answer that never began says nothing. */
  #messages(system) {
    const said = this.turns.filter((turn) => turn.text !== "");
    const turns = said.map(({ role, text }) => ({ role: role === "user" ? "user" : "assistant", content: text }));
    return system === "" ? turns : [{ role: "system", content: system }, ...turns];
  }
}

/** Takes one part of the stream into the turn. */
function take(turn, part, meter) {
  if (part.head) Object.assign(turn, part.head);
  if (part.finish) turn.finish = part.finish;
  if (part.text || part.reasoning) {
    meter.piece();
    turn.text += part.text ?? "";
    turn.reasoning += part.reasoning ?? "";
  }
  turn.figures = meter.figures(part.usage ?? null);
}

/** A fault as a value, its kind with it. Anything else is a fault of this page and is not hidden from its console. */
function told(error) {
  if (!(error instanceof Fault)) console.error(error);
  const fault = error instanceof Fault ? error : new Fault("foreign", { message: String(error?.message ?? error) });
  return { kind: fault.kind, ...explained(fault) };
}
