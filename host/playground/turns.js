// The conversation on the page: one list item a turn, only those touched that changed.

import { AnswerView } from "./answer.js";
import { el } from "./dom.js";
import { clean, size } from "./text.js";

/** Longer messages of the user are shown by their beginning, until asked for whole. */
const LONG = 4000;

/** Keeps a list element equal to the turns of a chat. */
export class TurnsView {
  #list;
  #retry;
  /** Turn -> its view. */
  #views = new Map();

  constructor(list, retry) {
    this.#list = list;
    this.#retry = retry;
  }

  update(turns) {
    const kept = new Set(turns);
    for (const [turn, view] of this.#views) {
      if (kept.has(turn)) continue;
      view.element.remove();
      this.#views.delete(turn);
    }
    turns.forEach((turn, i) => {
      const last = i === turns.length - 1;
      const view = this.#views.get(turn) ?? this.#add(turn);
      // A settled answer changes only in whether it is the last.
      if (view.update && (turn.state === "streaming" || view.seen !== turn.state + last)) view.update(last);
      view.seen = turn.state + last;
    });
  }

  #add(turn) {
    const view = turn.role === "user" ? { element: said(turn.text) } : new AnswerView(turn, this.#retry);
    this.#views.set(turn, view);
    this.#list.append(view.element);
    return view;
  }
}

function said(raw) {
  const text = clean(raw);
  const body = el("p", { class: "said", dir: "auto" }, text.length > LONG ? `${text.slice(0, LONG)} …` : text);
  const item = el("li", { class: "turn user" }, el("h3", { class: "unseen" }, "You"), body);
  if (text.length > LONG) {
    const whole = () => {
      body.textContent = text;
      more.remove();
    };
    const bytes = new TextEncoder().encode(raw).length;
    const more = el("button", { type: "button", class: "quiet more", onclick: whole }, `Show all ${size(bytes)}`);
    item.append(more);
  }
  return item;
}
