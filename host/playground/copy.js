// Copying to the clipboard, over plain HTTP too, where browsers lend no clipboard object.

import { el } from "./dom.js";

const SAID_MS = 1500;

/** A button that copies what `text()` gives and says whether it could. */
export function copyButton(label, text) {
  const button = el("button", { type: "button", class: "quiet copy" }, label);
  button.addEventListener("click", async () => {
    button.textContent = (await copy(text())) ? "Copied" : "Cannot copy: select the text instead";
    setTimeout(() => (button.textContent = label), SAID_MS);
  });
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copySelected(text);
  }
}

function copySelected(text) {
  const focused = document.activeElement;
  const field = el("textarea", { class: "unseen", readonly: true, "aria-hidden": "true" });
  field.value = text;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return done;
}
