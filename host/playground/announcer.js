// What a screen reader is told: that an answer began, and the answer once, when it has ended. Never token by token.

import { byId } from "./dom.js";
import { clean } from "./text.js";

const MAX_SPOKEN = 1000;
const region = byId("announcer");

/** Tells of a turn that began or ended. */
export function announce(turn) {
  const words = { streaming: "Answering.", done: "Answer: ", stopped: "Stopped. ", failed: "" }[turn.state];
  const text = turn.state === "streaming" ? "" : clean(turn.text);
  region.textContent = words + (text.length > MAX_SPOKEN ? `${text.slice(0, MAX_SPOKEN)} … The answer goes on.` : text);
}
