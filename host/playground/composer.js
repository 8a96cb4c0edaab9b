// The message box: Enter sends, Shift+Enter starts a line, Esc stops.

import { byId } from "./dom.js";

const prompt = byId("prompt");
const send = byId("send");
const stop = byId("stop");

/** Calls `onSend(text)`, which says whether the message was taken, and `onStop()`. */
export function begin({ onSend, onStop }) {
  const submit = () => {
    const text = prompt.value;
    if (text.trim() !== "" && onSend(text)) prompt.value = "";
  };
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  prompt.addEventListener("keydown", (event) => {
    // While an input method composes, Enter chooses a word.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  });
  stop.addEventListener("click", onStop);
}

/** Shows Stop in the place of Send while an answer is on its way; focus stays in that place. */
export function busy(running) {
  if (stop.hidden === !running) return;
  const focused = document.activeElement === stop || document.activeElement === send;
  stop.hidden = !running;
  send.hidden = running;
  if (focused && running) stop.focus();
  else if (focused) focus();
}

/** Puts `text` into the box, for the user to send or change. */
export function propose(text) {
  prompt.value = text;
  focus();
}

/** Puts the cursor into the box; on a touch screen, where that would open the keyboard over the answer, it does not. */
export function focus() {
  if (!matchMedia("(pointer: coarse)").matches) prompt.focus();
}
