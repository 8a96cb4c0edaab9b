// Elements without markup: everything the page shows is built here, so no text can ever become HTML.

/** An element by its id; the page always has it. */
export const byId = (id) => document.getElementById(id);

/**
 * A new element. `class` and attributes go in `attributes`, functions become listeners (`onclick`), `null`, `undefined`
 * and `false` are left out. A child is a node, a string, which becomes text, or a list of both: lists may be longer than
 * a call may have arguments.
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  // After the children: under `dir=auto` each of them would have the direction looked for anew.
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  return element;
}

/** Shows `text` in `element`, and the element only while there is any. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
  element.hidden = text === "";
}

/**
 * `work`, run at most once a frame and resting between runs for four times as long as the last one took: a page that
 * has much to draw stays answerable.
 */
export function paced(work) {
  let waiting = false;
  let rest = 0;
  const run = () =>
    requestAnimationFrame(() => {
      waiting = false;
      const began = performance.now();
      work();
      rest = 4 * (performance.now() - began);
    });
  return () => {
    if (waiting) return;
    waiting = true;
    if (rest > 16) setTimeout(run, rest);
    else run();
  };
}
