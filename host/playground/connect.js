// The API key: asked for, tried on the list of models, kept in this tab.

import { models } from "./api.js";
import { byId, say } from "./dom.js";
import { Fault, explained } from "./fault.js";
import { loadKey, saveKey } from "./store.js";

const card = byId("connect");
const field = byId("key");
const button = byId("connect-button");
const fault = byId("connect-fault");

/** While no node serves a model, the list is asked for again after this long. */
const AGAIN_MS = 3000;

let key = loadKey();

/** The key in use; empty when none is. */
export const current = () => key;

/** Calls `onModels(names)` whenever the server has accepted a key, and when the first model comes to an empty list. */
export function begin(onModels) {
  byId("connect-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    await connect(field.value.trim(), onModels);
    button.disabled = false;
  });
  if (key === "") ask();
  else connect(key, onModels);
}

/** Shows the field for the key, with what was wrong with the last one. */
export function ask(problem = "") {
  card.hidden = false;
  say(fault, problem);
  field.value = "";
  field.focus();
}

/** Nodes may come up after the page. What goes wrong meanwhile is left to the next try. */
async function wait(onModels) {
  let names = [];
  while (names.length === 0) {
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    names = await models(key).catch(() => []);
  }
  onModels(names);
}

async function connect(candidate, onModels) {
  try {
    const names = await models(candidate);
    key = candidate;
    saveKey(key);
    card.hidden = true;
    onModels(names);
    if (names.length === 0) wait(onModels);
  } catch (error) {
    const { title, advice, detail } = explained(error instanceof Fault ? error : new Fault("foreign"));
    const typed = field.value;
    ask([title, advice, detail && `The server says: ${detail}`].filter(Boolean).join(" "));
    // Only a refused key is worth typing again.
    field.value = error.kind === "key" ? "" : typed || candidate;
  }
}
