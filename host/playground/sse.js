// Server-sent events out of a byte stream (WHATWG HTML, section 9.2.6).

/** Takes text in any pieces and gives the events that are complete. */
export class Parser {
  #rest = "";
  #event = "";
  #data = [];

  /** The events that end in `text`, each `{event, data}`; comments and events without data give none. */
  push(text) {
    // A CR at the very end may be half of a CRLF: it waits for the next piece.
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    return lines.map((line) => this.#line(line)).filter((event) => event !== null);
  }

  #line(line) {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (field === "data") this.#data.push(value);
    if (field === "event") this.#event = value;
    return null;
  }

  #dispatch() {
    const whole = this.#data.length > 0 ? { event: this.#event || "message", data: this.#data.join("\n") } : null;
    this.#event = "";
    this.#data = [];
    return whole;
  }
}

/** The events of a response body, as they come. Leaving the loop early cancels the body. */
export async function* events(body) {
  const parser = new Parser();
  const decoder = new TextDecoder();
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
