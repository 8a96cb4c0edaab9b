// The edge's verdict on the cache (`x-littoral-cache: hit|miss|coalesced|bypass; reason=...; age=...`) in words.

/** `{verdict, reason, age}` of the header's value, age in seconds or null; null when there is no header. */
export function read(header) {
  if (!header) return null;
  const [verdict, ...parameters] = header.split(";").map((part) => part.trim());
  const value = (name) => parameters.find((p) => p.startsWith(`${name}=`))?.slice(name.length + 1) ?? "";
  const age = value("age") === "" ? NaN : Number(value("age"));
  return { verdict: verdict.toLowerCase(), reason: value("reason"), age: Number.isFinite(age) ? age : null };
}

/** Why a request may be answered from the cache. */
const ADMITTED = {
  deterministic: "temperature 0 or a seed makes the answer repeatable",
  always: "this server caches every request",
  header: "the request asked for the cache",
};

/** Why it was not looked for there. */
const PASSED = {
  sampled: "the answer is random by design. Set temperature 0 or a seed and the next one can be reused",
  "no-cache": "a fresh answer was asked for; it replaces the one kept",
  "no-store": "the request asked to be kept out of it",
  "no-header": "on this server a request must ask for it with the header x-littoral-cache: use",
  off: "this server keeps no answers",
  host: "this host has none",
};

/** One or two sentences: what came of the cache, and why. */
export function words({ verdict, reason, age }) {
  const admitted = ADMITTED[reason] ?? (reason && `the policy says "${reason}"`);
  const because = admitted ? `: ${admitted}` : "";
  switch (verdict) {
    case "hit":
      return `From the cache, kept ${age === null ? "before" : ago(age)}${because}.`;
    case "miss":
      return `Not in the cache yet${because}. Written now, and kept: the same request again will be answered from there.`;
    case "coalesced":
      return `Shared with the same request, which was being answered already${because}.`;
    case "bypass":
      return `Not from the cache: ${PASSED[reason] ?? (reason ? `the policy says "${reason}"` : "the policy went past it")}.`;
    default:
      return `The cache says "${verdict}"${reason ? `, because of "${reason}"` : ""}.`;
  }
}

function ago(seconds) {
  if (seconds < 1) return "less than a second ago";
  const [n, unit] = seconds < 90 ? [seconds, "second"] : seconds < 5400 ? [seconds / 60, "minute"] : [seconds / 3600, "hour"];
  const whole = Math.round(n);
  return `${whole} ${unit}${whole === 1 ? "" : "s"} ago`;
}
