// The figures of one answer, taken where they are felt: in the browser.

/** Started when the request is sent; told of every piece that arrives. Times are milliseconds. */
export class Meter {
  #began;
  #first = null;
  #last = null;
  #pieces = 0;

  constructor(now = performance.now()) {
    this.#began = now;
  }

  piece(now = performance.now()) {
    this.#first ??= now;
    this.#last = now;
    this.#pieces += 1;
  }

  /**
   * `ttft`: from the request to the first piece. `rate`: tokens a second from the first piece to the last, so the wait
   * for the first is not in it; null when there are too few to tell. `exact`: whether `tokens` is the node's count or
   * the number of pieces that came.
   */
  figures(usage = null) {
    const tokens = usage?.completion_tokens ?? this.#pieces;
    const seconds = (this.#last - this.#first) / 1000;
    return {
      ttft: this.#first === null ? null : this.#first - this.#began,
      rate: tokens > 1 && seconds > 0 ? (tokens - 1) / seconds : null,
      tokens,
      exact: usage !== null,
      prompt: usage?.prompt_tokens ?? null,
      reused: usage?.prompt_cache_hit_tokens ?? 0,
    };
  }
}
