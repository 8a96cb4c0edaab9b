// Markdown into blocks: a tree of plain values, without a document and without markup. Every step is linear in the text.

const MAX_DEPTH = 8;
/** What is wider is no table: its cells would be rows times columns of a short text. */
const MAX_COLUMNS = 64;
const FENCE = /^ {0,3}(`{3,}|~{3,})(.*)$/;
const HEADING = /^ {0,3}(#{1,6})(?: (.*))?$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( .*)?$/;
const RULE = /^(?:-{3,}|\*{3,}|_{3,})$/;
const DIVIDER = /^[|:\- ]+$/;

/**
 * The blocks of `text`, each with `line`, the number of its first line: `paragraph {text}`, `heading {level, text}`,
 * `code {language, text}`, `quote {blocks}`, `list {ordered, start, items}` (an item is a list of blocks),
 * `table {head, rows}`, `rule`.
 */
export function blocks(text) {
  return read(text.split("\n").map(untabbed), 0);
}

const blank = (line) => line.trim() === "";
const untabbed = (line) => (line.includes("\t") ? line.replace(/^[ \t]+/, (run) => run.replaceAll("\t", "    ")) : line);
const isRule = (line) => line.length < 200 && RULE.test(line.replaceAll(" ", ""));

function read(lines, depth) {
  const found = [];
  for (let at = 0; at < lines.length; ) {
    if (blank(lines[at])) {
      at += 1;
      continue;
    }
    const [block, end] = fenced(lines, at) ?? heading(lines, at) ?? rule(lines, at) ?? nested(lines, at, depth) ?? table(lines, at) ?? paragraph(lines, at);
    found.push({ ...block, line: at });
    at = end;
  }
  return found;
}

/** A fence that is never closed reaches to the end: an answer still being written shows its code as code. */
function fenced(lines, at) {
  const open = FENCE.exec(lines[at]);
  if (!open || (open[1][0] === "`" && open[2].includes("`"))) return null;
  const closes = (line) => {
    const close = FENCE.exec(line);
    return close && close[1].startsWith(open[1]) && blank(close[2]);
  };
  let end = at + 1;
  while (end < lines.length && !closes(lines[end])) end += 1;
  const language = open[2].trim().split(" ")[0];
  return [{ kind: "code", language, text: lines.slice(at + 1, end).join("\n") }, end + 1];
}

function heading(lines, at) {
  const match = HEADING.exec(lines[at]);
  if (!match) return null;
  let text = (match[2] ?? "").trim();
  const words = text.lastIndexOf(" ");
  if (/^#+$/.test(text.slice(words + 1))) text = text.slice(0, Math.max(words, 0)).trim();
  return [{ kind: "heading", level: match[1].length, text }, at + 1];
}

const rule = (lines, at) => (isRule(lines[at]) ? [{ kind: "rule" }, at + 1] : null);

/** What holds blocks of its own. Too deep, its lines are a paragraph. */
function nested(lines, at, depth) {
  return depth < MAX_DEPTH ? (quote(lines, at, depth) ?? list(lines, at, depth)) : null;
}

function quote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  if (end === at) return null;
  return [{ kind: "quote", blocks: read(lines.slice(at, end).map((line) => line.replace(QUOTE, "")), depth + 1) }, end];
}

function list(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  if (!first) return null;
  const base = first[1].length;
  const ordered = isOrdered(first);
  const items = [];
  let end = at;
  while (end < lines.length) {
    const line = lines[end];
    const item = ITEM.exec(line);
    if (item && item[1].length < base + 2 && isOrdered(item) === ordered && !isRule(line)) {
      items.push([(item[3] ?? "").slice(1)]);
    } else if (blank(line)) {
      let next = end + 1;
      while (next < lines.length && blank(lines[next])) next += 1;
      if (next === lines.length || !belongs(lines[next], base, ordered)) break;
      items.at(-1).push("");
      end = next - 1;
    } else if (indent(line) >= base + 2) {
      items.at(-1).push(line.slice(Math.min(indent(line), base + (ordered ? 3 : 2))));
    } else if (!blank(lines[end - 1]) && !opens(line)) {
      items.at(-1).push(line.trimStart());
    } else {
      break;
    }
    end += 1;
  }
  const start = ordered ? Number.parseInt(first[2], 10) : null;
  return [{ kind: "list", ordered, start, items: items.map((own) => read(own, depth + 1)) }, end];
}

const isOrdered = (item) => item[2].length > 1;
const indent = (line) => line.length - line.trimStart().length;

/** Whether a line after a blank one still belongs to the list. */
function belongs(line, base, ordered) {
  const item = ITEM.exec(line);
  return indent(line) >= base + 2 || (item !== null && item[1].length >= base && isOrdered(item) === ordered && !isRule(line));
}

function isTable(lines, at) {
  const divider = lines[at + 1];
  const drawn = divider?.includes("|") && divider.includes("-") && DIVIDER.test(divider);
  return drawn && lines[at].includes("|") && cells(lines[at]).length <= MAX_COLUMNS;
}

function table(lines, at) {
  if (!isTable(lines, at)) return null;
  const head = cells(lines[at]);
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const rows = lines.slice(at + 2, end).map((line) => {
    const own = cells(line);
    return head.map((_, column) => own[column] ?? "");
  });
  return [{ kind: "table", head, rows }, end];
}

function cells(line) {
  const row = line.trim().replace(/^\|/, "");
  return (row.endsWith("|") ? row.slice(0, -1) : row).split("|").map((cell) => cell.trim());
}

/** Whether a line begins a block of its own, so that a paragraph ends before it. */
function opens(line) {
  const item = ITEM.exec(line);
  const startsList = item !== null && item[3] !== undefined && (!isOrdered(item) || item[2].startsWith("1"));
  return FENCE.test(line) || HEADING.test(line) || QUOTE.test(line) || startsList || isRule(line);
}

function paragraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && !blank(lines[end]) && !opens(lines[end]) && !isTable(lines, end)) end += 1;
  return [{ kind: "paragraph", text: lines.slice(at, end).map((line) => line.trim()).join("\n") }, end];
}
