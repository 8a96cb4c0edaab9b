// Which addresses an answer may link to.

const SCHEMES = ["http:", "https:", "mailto:"];

/**
 * The address as the browser reads it, or null when it is relative or of any other scheme. Reading comes first: what a
 * URL parser forgives (case, blanks, a tab in `java\tscript:`) is forgiven before the scheme is looked at.
 */
export function safeUrl(address) {
  try {
    const url = new URL(address);
    return SCHEMES.includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}
