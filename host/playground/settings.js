// The settings of this tab: read from their fields, checked here, kept for a reload.

import { byId, say } from "./dom.js";
import { loadSettings, saveSettings } from "./store.js";

/** Name, field, and what the API takes: least, greatest, whole numbers only. */
const NUMBERS = [
  { name: "temperature", label: "Temperature", least: 0, most: 2, whole: false },
  { name: "max_tokens", label: "Max tokens", least: 1, most: 393216, whole: true },
  { name: "seed", label: "Seed", least: 0, most: Number.MAX_SAFE_INTEGER, whole: true },
].map((number) => ({ ...number, field: byId(number.name.replace("_", "-")) }));

const system = byId("system");
const cache = byId("cache");
const model = byId("model");
const fault = byId("settings-fault");

/** Puts the settings kept into their fields, and keeps them from now on. */
export function begin() {
  const kept = loadSettings();
  system.value = kept.system ?? "";
  cache.value = kept.cache ?? "";
  if (cache.selectedIndex < 0) cache.value = "";
  for (const { name, field } of NUMBERS) field.value = kept[name] ?? "";
  // Until the list comes: most likely it is served still.
  if (kept.model) offer([kept.model]);
  byId("settings-form").addEventListener("input", () => {
    keep();
    say(fault, problem() ?? "");
  });
  model.addEventListener("change", keep);
}

function keep() {
  const numbers = Object.fromEntries(NUMBERS.map(({ name, field }) => [name, field.value]));
  saveSettings({ ...numbers, system: system.value, cache: cache.value, model: model.value });
}

/** Fills the list of models; the one used before stays chosen while it is served. The first choice is kept. */
export function offer(names) {
  const wanted = model.value || loadSettings().model;
  model.replaceChildren(...names.map((name) => new Option(name, name)));
  if (names.length === 0) model.append(new Option("no model served", ""));
  if (names.includes(wanted)) model.value = wanted;
  model.disabled = names.length === 0;
  if (!wanted) keep();
}

/** What keeps the settings from being sent, in words; null when nothing does. Marks the field at fault. */
export function problem() {
  let first = null;
  for (const { label, least, most, whole, field } of NUMBERS) {
    const value = field.value === "" ? least : Number(field.value);
    // A number field that holds something else says it is empty.
    const good = !field.validity.badInput && value >= least && value <= most && (!whole || Number.isInteger(value));
    field.setAttribute("aria-invalid", String(!good));
    if (!good) first ??= `${label} takes a ${whole ? "whole " : ""}number from ${least} to ${most.toLocaleString("en")}.`;
  }
  return first;
}

/** What a request is made with. */
export function current() {
  const set = NUMBERS.filter(({ field }) => field.value !== "");
  const parameters = Object.fromEntries(set.map(({ name, field }) => [name, Number(field.value)]));
  return { model: model.value, system: system.value.trim(), parameters, cacheControl: cache.value };
}
