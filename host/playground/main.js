// Puts the page together: chat, views, settings and keyboard. The only module that knows them all.

import { announce } from "./announcer.js";
import { Chat } from "./chat.js";
import * as composer from "./composer.js";
import * as connect from "./connect.js";
import { byId, el, paced, say } from "./dom.js";
import * as scroll from "./scroll.js";
import * as settings from "./settings.js";
import { loadTurns, saveTurns } from "./store.js";
import { TurnsView } from "./turns.js";

const IDEAS = ["Tell a short story about the sea.", "Why is the sky blue? Two sentences.", "Write a haiku about a lighthouse."];
/** While an answer streams, the conversation is kept this often. */
const KEEP_EVERY_MS = 500;

const panel = byId("settings");
const panelToggle = byId("settings-toggle");

const chat = new Chat(loadTurns(), () => ({ key: connect.current(), ...settings.current() }), changed);
const view = new TurnsView(byId("turns"), retry);
const draw = () => {
  scroll.following(() => view.update(chat.turns));
  composer.busy(chat.busy);
  byId("welcome").hidden = chat.turns.length > 0 || connect.current() === "";
};
const drawSoon = paced(draw);

let keepTimer = null;
let lastState = null;
let leaving = false;

/** Told of every change of the conversation: draws it, keeps it, tells the screen reader of beginnings and ends. */
function changed(turn) {
  const state = turn && chat.turns.indexOf(turn) + turn.state;
  if (turn && state === lastState) {
    drawSoon();
    keepTimer ??= setTimeout(keep, KEEP_EVERY_MS);
    return;
  }
  lastState = state;
  draw();
  keep();
  if (turn) announce(turn);
  if (turn?.fault?.kind === "key") connect.ask(`${turn.fault.title} ${turn.fault.advice}`);
}

/** Once the page is being left, what ends the answer is the leaving, and not what is to be kept. */
function keep() {
  clearTimeout(keepTimer);
  keepTimer = null;
  if (leaving) return;
  const kept = saveTurns(chat.turns);
  say(byId("notice"), kept ? "" : "This conversation is too long for the browser to keep: a reload would lose it.");
}

/** Whether a request can be made; otherwise shows what is missing. */
function ready() {
  if (connect.current() === "") connect.ask("An API key is needed first.");
  else if (settings.problem() !== null) openSettings(true);
  else if (settings.current().model === "") say(byId("notice"), "No node serves a model right now. The list above fills as soon as one does.");
  else return true;
  return false;
}

function send(text) {
  if (chat.busy || !ready()) return false;
  scroll.toLatest();
  chat.send(text);
  return true;
}

function retry() {
  if (!ready()) return;
  // The button goes with the answer it belongs to: the focus must not go with it.
  composer.focus();
  chat.retry();
}

function openSettings(open) {
  panel.hidden = !open;
  panelToggle.setAttribute("aria-expanded", String(open));
  if (open) (panel.querySelector("[aria-invalid=true]") ?? byId("system")).focus();
  else panelToggle.focus();
}

function showTheme(theme) {
  byId("theme-name").textContent = `Theme: ${theme}`;
}

settings.begin();
composer.begin({ onSend: send, onStop: () => chat.stop() });
scroll.begin(byId("latest"));
connect.begin((names) => {
  settings.offer(names);
  // What may have been said of an empty list is over.
  if (names.length > 0) keep();
  draw();
  composer.focus();
});

byId("ideas").append(...IDEAS.map((idea) => el("button", { type: "button", onclick: () => composer.propose(idea) }, idea)));
byId("new-chat").addEventListener("click", () => {
  chat.clear();
  composer.focus();
});
panelToggle.addEventListener("click", () => openSettings(panel.hidden));
byId("settings-close").addEventListener("click", () => openSettings(false));
byId("change-key").addEventListener("click", () => {
  openSettings(false);
  connect.ask();
});
byId("theme").addEventListener("click", () => showTheme(window.littoralTheme.next()));
showTheme(window.littoralTheme.current);

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing) return;
  if (chat.busy) chat.stop();
  else if (!panel.hidden) openSettings(false);
});
addEventListener("pagehide", () => {
  keep();
  leaving = true;
});
addEventListener("pageshow", () => {
  leaving = false;
});

draw();
