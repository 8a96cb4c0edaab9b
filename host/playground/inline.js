// Markdown within a block: emphasis, code, links. Plain values again; hostile text costs no more time than other text.

import { safeUrl } from "./links.js";

const MAX_DEPTH = 6;
const MAX_LABEL = 500;
const MAX_ADDRESS = 2048;
const SPECIAL = /[\\`*_~[<]|https?:\/\//g;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const WORD = /[\p{L}\p{N}]/u;
const SPACE = /\s/;
const BARE = /https?:\/\/[^\s<>"`]{1,2048}/y;

/** The nodes of `text`: `text {text}`, `code {text}`, `strong|em|strike {nodes}`, `link {href, nodes}`. */
export function inline(text) {
  return new Reader(text, false, 0).nodes();
}

class Reader {
  #text;
  #inLink;
  #depth;
  #found = [];
  /** Where the text begins that has not become a node yet. */
  #plain = 0;
  /** The next place each mark closes, so that no stretch is searched twice. */
  #closers = new Map();

  constructor(text, inLink, depth) {
    this.#text = text;
    this.#inLink = inLink;
    this.#depth = depth;
  }

  nodes() {
    for (let at = 0; at < this.#text.length; ) {
      SPECIAL.lastIndex = at;
      const special = SPECIAL.exec(this.#text);
      if (!special) break;
      at = this.#special(special.index);
    }
    this.#flush(this.#text.length);
    return this.#found;
  }

  /** Reads what stands at `at`; returns where to go on. */
  #special(at) {
    switch (this.#text[at]) {
      case "\\":
        return this.#escape(at);
      case "`":
        return this.#code(at);
      case "[":
        return this.#link(at);
      case "<":
        return this.#angle(at);
      case "h":
        return this.#bare(at);
      default:
        return this.#emphasis(at);
    }
  }

  #flush(end) {
    if (end > this.#plain) this.#found.push({ kind: "text", text: this.#text.slice(this.#plain, end) });
  }

  #node(node, at, end) {
    this.#flush(at);
    this.#found.push(node);
    this.#plain = end;
    return end;
  }

  #inner(text, inLink = this.#inLink) {
    return this.#depth < MAX_DEPTH ? new Reader(text, inLink, this.#depth + 1).nodes() : [{ kind: "text", text }];
  }

  #escape(at) {
    if (!ESCAPABLE.test(this.#text[at + 1] ?? "")) return at + 1;
    this.#flush(at);
    this.#plain = at + 1;
    return at + 2;
  }

  /** A code span closes with as many backticks as it opened with. */
  #code(at) {
    const run = this.#run(at);
    const close = this.#closer("`".repeat(run), at + run, (p) => (this.#run(p) === run ? p : null));
    if (close === Infinity) return at + run;
    const text = this.#text.slice(at + run, close);
    const padded = text.length > 2 && text.startsWith(" ") && text.endsWith(" ");
    return this.#node({ kind: "code", text: padded ? text.slice(1, -1) : text }, at, close + run);
  }

  #emphasis(at) {
    const sign = this.#text[at];
    const run = this.#run(at);
    const width = sign === "~" ? 2 : Math.min(run, 3);
    const before = this.#text[at - 1] ?? " ";
    const after = this.#text[at + width] ?? " ";
    const inWord = sign === "_" && WORD.test(before);
    if (run < width || run > 3 || SPACE.test(after) || inWord) return at + run;
    const close = this.#closer(sign.repeat(width), at + width, (p) => this.#closes(p, sign, width));
    if (close === Infinity) return at + run;
    const nodes = this.#inner(this.#text.slice(at + width, close));
    return this.#node(emphasised(sign, width, nodes), at, close + width);
  }

  /** Of a longer row the last signs close; those before them close what stands within. */
  #closes(at, sign, width) {
    const run = this.#run(at);
    const after = this.#text[at + run] ?? " ";
    const tight = !SPACE.test(this.#text[at - 1]) && this.#text[at - 1] !== "\\";
    const fits = tight && run >= width && (width > 1 || run !== 2) && !(sign === "_" && WORD.test(after));
    return fits ? at + run - width : null;
  }

  /** How many times the character at `at` stands there in a row, from the first of the row or from `at`. */
  #run(at) {
    let end = at + 1;
    while (end - at < 64 && this.#text[end] === this.#text[at]) end += 1;
    return end - at;
  }

  /**
   * The first place at or after `from` where `closes` lets `mark` close; Infinity when there is none. Asked of ever
   * later places, it searches each stretch of text once.
   */
  #closer(mark, from, closes) {
    let place = this.#closers.get(mark) ?? -1;
    if (place >= from) return place;
    for (let at = from; place < from; at += this.#run(at)) {
      at = this.#text.indexOf(mark, at);
      if (at < 0) break;
      place = closes(at) ?? -1;
    }
    if (place < from) place = Infinity;
    this.#closers.set(mark, place);
    return place;
  }

  /** `[label](address "title")`. An address that is not safe leaves it all as text. */
  #link(at) {
    const close = this.#closer("](", at + 1, (p) => p);
    if (this.#inLink || close - at > MAX_LABEL) return at + 1;
    const label = this.#text.slice(at + 1, close);
    const target = balanced(label) ? this.#target(close + 2) : null;
    if (!target) return at + 1;
    const href = safeUrl(target.address);
    return href === null ? target.end : this.#node({ kind: "link", href, nodes: this.#inner(label, true) }, at, target.end);
  }

  /** The address that begins at `from`, and where its parenthesis has closed. */
  #target(from) {
    const piece = this.#text.slice(from, from + MAX_ADDRESS);
    let depth = 1;
    for (let i = 0; i < piece.length; i += 1) {
      if (piece[i] === "(") depth += 1;
      if (piece[i] === ")") depth -= 1;
      if (depth === 0) {
        const [address] = piece.slice(0, i).trim().split(/\s+["'(]/, 1);
        return { address: address.replace(/^<(.*)>$/s, "$1"), end: from + i + 1 };
      }
    }
    return null;
  }

  /** `<https://...>`; any other angle bracket is text. */
  #angle(at) {
    const piece = this.#text.slice(at + 1, at + 1 + MAX_ADDRESS);
    const address = /^(?:https?:\/\/|mailto:)[^\s<>]+(?=>)/.exec(piece)?.[0];
    const href = address && !this.#inLink ? safeUrl(address) : null;
    if (!href) return at + 1;
    return this.#node({ kind: "link", href, nodes: [{ kind: "text", text: address }] }, at, at + address.length + 2);
  }

  /** An address that stands in the text; the punctuation that ends the sentence is not part of it. */
  #bare(at) {
    BARE.lastIndex = at;
    const address = trimmed(BARE.exec(this.#text)?.[0] ?? "");
    const href = this.#inLink || WORD.test(this.#text[at - 1] ?? " ") ? null : safeUrl(address);
    if (!href) return at + 4;
    return this.#node({ kind: "link", href, nodes: [{ kind: "text", text: address }] }, at, at + address.length);
  }
}

function emphasised(sign, width, nodes) {
  if (sign === "~") return { kind: "strike", nodes };
  if (width === 1) return { kind: "em", nodes };
  return { kind: "strong", nodes: width === 2 ? nodes : [{ kind: "em", nodes }] };
}

function balanced(label) {
  let depth = 0;
  for (const character of label) {
    if (character === "[") depth += 1;
    if (character === "]") depth -= 1;
    if (depth < 0) return false;
  }
  return depth === 0;
}

function trimmed(address) {
  let end = address.length;
  while (end > 0 && /[.,;:!?*_~'\]]/.test(address[end - 1])) end -= 1;
  const open = address.lastIndexOf("(", end);
  return address[end - 1] === ")" && open < 0 ? address.slice(0, end - 1) : address.slice(0, end);
}
