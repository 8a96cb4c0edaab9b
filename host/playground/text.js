// Text from outside, made fit to be seen: what would be invisible, or would reorder what stands around it, is shown.

/** Seen by nobody and needed by nothing: soft hyphen, zero-width space, word joiner and kin, byte order mark. */
const EMPTY = /[\u00AD\u200B\u2060-\u2064\uFEFF]/g;

/** C0 and C1 controls, bidirectional embeddings, overrides and isolates, interlinear marks, tag characters. */
const HIDDEN = /[\u0000-\u0008\u000B-\u001F\u007F-\u009F\u202A-\u202E\u2066-\u206F\uFFF9-\uFFFB\u{E0000}-\u{E007F}]/gu;

const LINE_ENDS = /\r\n?|[\u2028\u2029]/g;

/** The text as it may be shown and copied. Line ends become LF; lone surrogates become U+FFFD. */
export function clean(text) {
  const whole = text.toWellFormed?.() ?? text;
  return whole.replace(LINE_ENDS, "\n").replace(EMPTY, "").replace(HIDDEN, visible);
}

/** A sign for a character that has none: a control picture (U+2400 and on), or its number. */
function visible(character) {
  const code = character.codePointAt(0);
  if (code < 0x20) return String.fromCharCode(0x2400 + code);
  if (code === 0x7f) return "\u2421";
  return `\u27E8U+${code.toString(16).toUpperCase().padStart(4, "0")}\u27E9`;
}

/** Bytes as people say them. */
export function size(bytes) {
  if (bytes < 1000) return `${bytes} bytes`;
  return bytes < 1e6 ? `${Math.round(bytes / 1000)} KB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

/** A count with its noun; the plural takes an `s`. */
export const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
