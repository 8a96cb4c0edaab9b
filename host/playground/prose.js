// An answer's markdown as DOM nodes. Built from values, never from HTML; while text streams in, finished blocks stay.

import { blocks } from "./blocks.js";
import { inline } from "./inline.js";
import { copyButton } from "./copy.js";
import { el } from "./dom.js";

/** Headings in answers stand below the page's own two levels and the turn's. */
const HEADING_OFFSET = 3;

/** Keeps the content of one element equal to a text that grows. */
export class Prose {
  #root;
  /**
   * The text up to the last block but one: it cannot change while text is only added. The last two can: after a list,
   * `5` is a paragraph until it has become `5. more`.
   */
  #settled = "";
  #settledNodes = 0;

  constructor(root) {
    this.#root = root;
  }

  /** Shows `text`, which is clean already. */
  update(text) {
    if (!text.startsWith(this.#settled)) {
      this.#settled = "";
      this.#settledNodes = 0;
    }
    const rest = text.slice(this.#settled.length);
    const found = blocks(rest);
    this.#show(found);
    if (found.length > 2) {
      this.#settled += rest.split("\n").slice(0, found.at(-2).line).join("\n") + "\n";
      this.#settledNodes += found.length - 2;
    }
  }

  #show(found) {
    const old = [...this.#root.children].slice(this.#settledNodes);
    found.forEach((block, i) => {
      if (old[i] && grows(old[i], block)) return;
      const node = built(block);
      if (old[i]) old[i].replaceWith(node);
      else this.#root.append(node);
    });
    for (const node of old.slice(found.length)) node.remove();
  }
}

/** Code that is still being written keeps its element, and with it the reader's selection and place. */
function grows(node, block) {
  if (block.kind !== "code" || node.dataset.language !== block.language) return false;
  const code = node.querySelector("code");
  const [shown, wanted] = [code.textContent, block.text];
  if (wanted.startsWith(shown)) {
    if (wanted.length > shown.length) code.append(wanted.slice(shown.length));
  } else {
    code.textContent = wanted;
  }
  return true;
}

function built(block) {
  switch (block.kind) {
    case "heading":
      return el(`h${Math.min(block.level + HEADING_OFFSET, 6)}`, { dir: "auto" }, spans(block.text));
    case "code":
      return code(block);
    case "quote":
      return el("blockquote", {}, block.blocks.map(built));
    case "list":
      return list(block);
    case "table":
      return table(block);
    case "rule":
      return el("hr");
    default:
      return el("p", { dir: "auto" }, spans(block.text));
  }
}

function code({ language, text }) {
  const shown = el("code", {}, text);
  const bar = el("div", { class: "code-bar" }, el("span", {}, language || "text"), copyButton("Copy code", () => shown.textContent));
  const figure = el("figure", { class: "code" }, bar, el("pre", { tabindex: 0, "aria-label": "Code" }, shown));
  figure.dataset.language = language;
  return figure;
}

function list({ ordered, start, items }) {
  const attributes = ordered && start !== 1 ? { start } : {};
  return el(ordered ? "ol" : "ul", attributes, items.map((item) => el("li", { dir: "auto" }, tight(item))));
}

/** An item's only paragraph needs no element of its own. */
function tight(item) {
  return item.flatMap((block, i) => (i === 0 && block.kind === "paragraph" ? spans(block.text) : [built(block)]));
}

function table({ head, rows }) {
  const row = (tag, cells) => el("tr", {}, cells.map((cell) => el(tag, { dir: "auto" }, spans(cell))));
  const body = el("tbody", {}, rows.map((cells) => row("td", cells)));
  return el("div", { class: "table", tabindex: 0, role: "group", "aria-label": "Table" }, el("table", {}, el("thead", {}, row("th", head)), body));
}

const spans = (text) => inline(text).map(span);

function span(node) {
  switch (node.kind) {
    case "code":
      return el("code", {}, node.text);
    case "link":
      return link(node);
    case "strong":
    case "em":
      return el(node.kind, {}, node.nodes.map(span));
    case "strike":
      return el("s", {}, node.nodes.map(span));
    default:
      return document.createTextNode(node.text);
  }
}

/** The title shows where a link really goes, whatever its words say. */
function link({ href, nodes }) {
  return el("a", { href, title: href, target: "_blank", rel: "noopener noreferrer" }, nodes.map(span));
}
