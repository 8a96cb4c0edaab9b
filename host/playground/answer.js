// One answer on the page: its text, the figures of how it came about, what went wrong, and what to do with it.

import * as cache from "./cache-words.js";
import { copyButton } from "./copy.js";
import { el, say } from "./dom.js";
import { Prose } from "./prose.js";
import { clean, count } from "./text.js";

/** Shows one turn of the role `answer`; `update` brings it up to date. */
export class AnswerView {
  element;
  #turn;
  #prose;
  #thoughts;
  #waiting = el("p", { class: "waiting" }, "Waiting for the first token");
  #note = el("p", { class: "note" });
  #figures = el("dl", { class: "figures" });
  #why = el("p", { class: "why" });
  #fault = el("div", { class: "fault", role: "alert", hidden: true });
  #actions;

  constructor(turn, retry) {
    this.#turn = turn;
    const body = el("div", { class: "prose" });
    this.#prose = new Prose(body);
    this.#thoughts = el("details", { class: "thoughts" }, el("summary", {}, "Reasoning"), el("p", { dir: "auto" }));
    const retryButton = el("button", { type: "button", class: "quiet retry", onclick: retry }, "Retry");
    this.#actions = el("div", { class: "actions" }, copyButton("Copy", () => clean(this.#turn.text)), retryButton);
    const parts = [this.#thoughts, this.#waiting, body, this.#note, this.#fault, this.#figures, this.#why, this.#actions];
    this.element = el("li", { class: "turn answer" }, el("h3", {}, clean(turn.model) || "Answer"), parts);
    this.update(true);
  }

  /** `last`: whether the answer is the conversation's last, which is the one that can be asked for again. */
  update(last) {
    const turn = this.#turn;
    const running = turn.state === "streaming";
    this.element.dataset.state = turn.state;
    this.element.setAttribute("aria-busy", String(running));
    this.#prose.update(clean(turn.text));
    this.#thoughts.hidden = !turn.reasoning;
    if (turn.reasoning) this.#thoughts.lastElementChild.textContent = clean(turn.reasoning);
    this.#waiting.hidden = !running || turn.text !== "" || turn.reasoning !== "";
    say(this.#note, note(turn));
    this.#showFault(turn.fault);
    this.#showFigures(turn);
    const verdict = cache.read(turn.cache);
    say(this.#why, verdict ? clean(cache.words(verdict)) : "");
    this.#actions.hidden = running;
    this.#actions.querySelector(".copy").hidden = turn.text === "";
    this.#actions.querySelector(".retry").hidden = !last;
  }

  #showFigures(turn) {
    const wanted = rows(turn);
    const now = wanted.map(([term, value]) => `${term} ${value}`).join("\n");
    if (this.#figures.dataset.now === now) return;
    this.#figures.dataset.now = now;
    this.#figures.hidden = wanted.length === 0;
    this.#figures.replaceChildren(...wanted.map(([term, value, title]) => el("div", { title, "data-figure": term }, el("dt", {}, term), el("dd", {}, value))));
  }

  #showFault(fault) {
    if (!fault || this.#fault.childElementCount > 0) return;
    this.#fault.hidden = false;
    const detail = clean(fault.detail);
    this.#fault.append(el("p", {}, el("strong", {}, fault.title), ` ${fault.advice}`));
    if (detail) this.#fault.append(el("p", { class: "detail", dir: "auto" }, `The server says: ${detail}`));
    if (fault.requestId) this.#fault.append(el("p", { class: "detail" }, "Request id: ", el("code", {}, clean(fault.requestId))));
  }
}

function note({ state, cut, finish, text }) {
  if (cut) return "Stopped: the page was reloaded while this answer was being written.";
  if (state === "stopped") return text === "" ? "Stopped before it began." : "Stopped by you.";
  if (state === "done" && finish === "length") return "Ended at the limit of tokens.";
  if (state === "done" && finish === "content_filter") return "Ended by a filter.";
  return state === "done" && text === "" ? "The model answered with nothing." : "";
}

/** Term, value and explanation of each figure known. */
function rows({ figures, node, cache: header, state }) {
  const known = [];
  const verdict = cache.read(header);
  if (figures && figures.ttft !== null) {
    known.push(["TTFT", time(figures.ttft), "Time to first token: from sending the request to the first piece of the answer"]);
    // A replay is as fast as the connection: that says nothing of the model.
    if (figures.rate !== null && verdict?.verdict !== "hit") known.push(["Speed", `${rate(figures.rate)} tokens/s`, "Tokens a second, from the first piece to the last"]);
    const sign = figures.exact ? "" : "about ";
    const title = figures.exact ? "Counted by the node" : "Pieces of the stream so far; the node's count comes at its end";
    known.push(["Answer", sign + count(figures.tokens, "token"), title]);
    const reused = figures.reused > 0 ? `, ${figures.reused.toLocaleString("en")} reused` : "";
    if (figures.prompt !== null) known.push(["Prompt", count(figures.prompt, "token") + reused, "Counted by the node; reused ones it had computed before"]);
  }
  if (node) known.push(["Node", clean(node), "The node that wrote the answer"]);
  if (verdict) known.push(["Cache", clean(verdict.verdict), state === "streaming" ? null : "Why, stands below"]);
  return known;
}

const time = (ms) => (ms < 1000 ? `${Math.max(Math.round(ms), 1)} ms` : `${(ms / 1000).toFixed(2)} s`);
const rate = (n) => (n < 100 ? n.toFixed(1) : Math.round(n).toLocaleString("en"));
