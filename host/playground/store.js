// What survives a reload, and no more: this tab's key, settings and conversation, in sessionStorage.

const KEY = "littoral.key";
const SETTINGS = "littoral.settings";
const CHAT = "littoral.chat";

/** Where the browser lends no storage, the page works without. */
function read(name) {
  try {
    return sessionStorage.getItem(name);
  } catch {
    return null;
  }
}

/** Whether the value is kept. A value that does not fit leaves no older one behind. */
function write(name, value) {
  try {
    sessionStorage.setItem(name, value);
    return true;
  } catch {
    try {
      sessionStorage.removeItem(name);
    } catch {
      // No storage at all.
    }
    return false;
  }
}

function parsed(name, fallback) {
  try {
    return JSON.parse(read(name)) ?? fallback;
  } catch {
    return fallback;
  }
}

export const loadKey = () => read(KEY) ?? "";
export const saveKey = (key) => write(KEY, key);

export const loadSettings = () => parsed(SETTINGS, {});
export const saveSettings = (settings) => write(SETTINGS, JSON.stringify(settings));

export const saveTurns = (turns) => write(CHAT, JSON.stringify(turns));

/** The turns kept. An answer that was still being written belongs to a page that is gone: it was stopped. */
export function loadTurns() {
  const turns = parsed(CHAT, []);
  if (!Array.isArray(turns)) return [];
  return turns
    .filter((turn) => turn && ["user", "answer"].includes(turn.role) && typeof turn.text === "string")
    .map((turn) => (turn.state === "streaming" ? { ...turn, state: "stopped", cut: true } : turn));
}
