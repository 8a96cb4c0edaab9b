//! The cache layer: whether an answer may come from the cache, and under which key.

use std::{
    collections::BTreeMap,
    ops::ControlFlow::{Break, Continue},
};

use serde::{Deserialize, Serialize};

use crate::{
    CachePlan, Call, Knowledge, Model, Step, cache_mode,
    chat::{self, ChatRequest},
    denial::internal,
    extra, extra_name, fact, fact_kind,
    key::hex,
    retrieval,
    route::Endpoint,
};

/// The section `cache` of the configuration, as the host hands it in.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    pub policy: Policy,
    pub ttl_ms: u64,
    /// Other rules for one route, by its name ([`route::CHAT`]).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub routes: BTreeMap<String, Rules>,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { policy: Policy::Deterministic, ttl_ms: 30 * 60 * 1000, routes: BTreeMap::new() }
    }
}

impl CacheConfig {
    /// What holds for a request: the key's rules before the route's, and those before everybody's.
    pub fn rules(&self, route: &str, key: Rules) -> (Policy, u64) {
        let route = self.routes.get(route).copied().unwrap_or_default();
        let policy = key.policy.or(route.policy).unwrap_or(self.policy);
        (policy, key.ttl_ms.or(route.ttl_ms).unwrap_or(self.ttl_ms))
    }
}

/// Rules for one route or one API key; what is not set is as for everybody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
}

/// Names in [`CacheConfig::routes`].
pub mod route {
    pub const CHAT: &str = "chat";
    pub const RETRIEVAL: &str = "retrieval";
    pub const ALL: [&str; 2] = [CHAT, RETRIEVAL];
}

/// How tags begin that only this module gives.
const OWN_TAGS: [&str; 2] = ["model:", "knowledge:"];
/// Most tags a request may give its answer, and the longest of them, bytes.
const MAX_TAGS: usize = 8;
const MAX_TAG: usize = 64;

/// Which requests may be answered from the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Those whose answer is always the same: temperature 0, or a seed.
    Deterministic,
    /// Every one.
    Always,
    /// Those that carry `x-littoral-cache: use`.
    Header,
    /// None.
    Off,
}

/// Fills the draft of a chat or retrieval request with its canonical form and its cache plan; other calls pass
/// untouched.
pub fn plan(mut call: Call, known: &dyn Knowledge) -> Step {
    let endpoint = match Endpoint::of(&call.head.path) {
        Some(endpoint @ (Endpoint::Chat | Endpoint::Retrieval)) if call.head.method == "POST" => endpoint,
        _ => return Continue(call),
    };
    let config = match fact(&call, known, fact_kind::CONFIG, "cache")?.value {
        None => CacheConfig::default(),
        Some(json) => match serde_json::from_slice(&json) {
            Ok(config) => config,
            Err(_) => return Break(internal("the cache configuration cannot be read").into()),
        },
    };
    if endpoint == Endpoint::Retrieval {
        let request = match retrieval::read(&mut call) {
            Ok(request) => request,
            Err(outcome) => return Break(outcome),
        };
        let (policy, ttl_ms) = config.rules(route::RETRIEVAL, key_rules(&call));
        // The same look-up has the same answer until the knowledge changes, which is what the time to live is for.
        let wish = Wish { deterministic: true, policy, ttl_ms };
        let tags = tags(&call, format!("knowledge:{}", request.knowledge_id));
        let tenant = call.draft.tenant().to_string();
        fill(&mut call, wish, tags, || digest(&[b"retrieval", tenant.as_bytes(), &request.to_bytes()]));
        return Continue(call);
    }
    let request = match chat::read(&mut call) {
        Ok(request) => request,
        Err(outcome) => return Break(outcome),
    };
    // A model nobody serves has no key; the router refuses it.
    if let Some(model) = known.model(&request.model) {
        let (policy, ttl_ms) = config.rules(route::CHAT, key_rules(&call));
        let deterministic = request.temperature == 0.0 || request.seed.is_some();
        let tags = tags(&call, format!("model:{}", model.name));
        let tenant = call.draft.tenant().to_string();
        let canonical = std::mem::take(&mut call.draft.request);
        fill(&mut call, Wish { deterministic, policy, ttl_ms }, tags, || key(request, &canonical, &model, &tenant));
        call.draft.request = canonical;
    }
    Continue(call)
}

/// What would be done if the client said nothing.
struct Wish {
    deterministic: bool,
    policy: Policy,
    ttl_ms: u64,
}

/// Writes the cache plan; the key is made only where it is needed.
fn fill(call: &mut Call, wish: Wish, tags: Vec<String>, key: impl FnOnce() -> String) {
    let control = Control::of(call);
    let (mode, reason) = mode(call, wish.deterministic, wish.policy, &control);
    call.draft.cache = Some(CachePlan {
        key: if mode == cache_mode::BYPASS { String::new() } else { key() },
        scope: call.draft.tenant().into(),
        ttl_ms: wish.ttl_ms,
        max_age_ms: control.max_age_ms,
        mode: mode.into(),
        tags,
        reason: reason.into(),
    });
}

/// The rules of the key that opened the door, if it has any.
fn key_rules(call: &Call) -> Rules {
    extra(&call.draft, extra_name::CACHE_RULES).unwrap_or_default()
}

/// What the client's `cache-control` says (RFC 9111, section 5.2.1); directives that are not known are passed over.
#[derive(Debug, Default, PartialEq)]
struct Control {
    no_store: bool,
    no_cache: bool,
    max_age_ms: Option<u64>,
}

impl Control {
    fn of(call: &Call) -> Self {
        let mut control = Self::default();
        for directive in call.head.list("cache-control").split(',') {
            let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
            match name.trim().to_ascii_lowercase().as_str() {
                "no-store" => control.no_store = true,
                "no-cache" => control.no_cache = true,
                "max-age" => {
                    // Recipients read a number in quotes too, and take one that is none for the smallest.
                    let seconds: u64 = value.trim().trim_matches('"').parse().unwrap_or(0);
                    let age = seconds.saturating_mul(1000);
                    // Who says it twice means the younger one at least.
                    control.max_age_ms = Some(control.max_age_ms.map_or(age, |other| other.min(age)));
                }
                _ => {}
            }
        }
        control
    }
}

/// Mode and reason. The client's `cache-control` comes first, then the policy.
fn mode(call: &Call, deterministic: bool, policy: Policy, control: &Control) -> (&'static str, &'static str) {
    let admitted = match policy {
        Policy::Always => Ok("always"),
        Policy::Deterministic if deterministic => Ok("deterministic"),
        Policy::Deterministic => Err("sampled"),
        Policy::Header if call.head.header("x-littoral-cache") == Some("use") => Ok("header"),
        Policy::Header => Err("no-header"),
        Policy::Off => Err("off"),
    };
    match admitted {
        _ if control.no_store => (cache_mode::BYPASS, "no-store"),
        Ok(_) if control.no_cache => (cache_mode::REFRESH, "no-cache"),
        Ok(reason) => (cache_mode::USE, reason),
        Err(reason) => (cache_mode::BYPASS, reason),
    }
}

/// By what an answer can be purged: its own tag, and the tags of the header `x-littoral-cache-tags` that are fit to be.
fn tags(call: &Call, own: String) -> Vec<String> {
    let given = call.head.list("x-littoral-cache-tags");
    // A tag of the client's cannot pass for one of these, nor can one that nobody could name in a purge.
    let free =
        |tag: &str| !tag.contains(char::REPLACEMENT_CHARACTER) && !OWN_TAGS.iter().any(|own| tag.starts_with(own));
    let fit = |tag: &&str| !tag.is_empty() && tag.len() <= MAX_TAG && free(tag);
    let given = given.split(',').map(str::trim).filter(fit).take(MAX_TAGS).map(String::from);
    std::iter::once(own).chain(given).collect()
}

/// BLAKE3 in hex over everything that changes the answer: tenant, model, its revision, and the canonical request
/// without what only changes how the answer is written.
fn key(mut request: ChatRequest, canonical: &[u8], model: &Model, tenant: &str) -> String {
    let parts =
        |substance: &[u8]| digest(&[tenant.as_bytes(), model.name.as_bytes(), model.revision.as_bytes(), substance]);
    if request.model == model.name {
        return parts(&request.substance(canonical));
    }
    // Under its own name: another name for the same model has the same answers.
    request.model.clone_from(&model.name);
    let renamed = request.to_bytes();
    parts(&request.substance(&renamed))
}

/// BLAKE3 in hex over parts that do not run into each other.
fn digest(parts: &[&[u8]]) -> String {
    let mut hash = blake3::Hasher::new();
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(hash.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Head;

    fn with(name: &str, value: &str) -> Call {
        let headers = vec![(name.to_string(), value.as_bytes().to_vec())];
        Call { head: Head { headers, ..Head::default() }, ..Call::default() }
    }

    #[test]
    fn cache_control_is_read_as_http_writes_it() {
        let read = |value: &str| Control::of(&with("cache-control", value));
        let age = |ms| Control { max_age_ms: Some(ms), ..Control::default() };
        assert_eq!(read("Max-Age=60 , only-if-tired=\"x\""), age(60_000));
        assert_eq!(read("max-age=\"5\""), age(5_000));
        assert_eq!(read("max-age=soon"), age(0));
        assert_eq!(read("max-age=99999999999999999999"), age(0));
        assert_eq!(read("NO-STORE,no-cache"), Control { no_store: true, no_cache: true, max_age_ms: None });
        assert_eq!(read(",,="), Control::default());
    }

    #[test]
    fn all_lines_of_a_header_count_whatever_else_stands_in_them() {
        let read = |values: &[&[u8]]| {
            let headers = values.iter().map(|value| ("cache-control".to_string(), value.to_vec())).collect();
            Control::of(&Call { head: Head { headers, ..Head::default() }, ..Call::default() })
        };
        let both = Control { no_store: true, no_cache: false, max_age_ms: Some(100_000) };
        assert_eq!(read(&[b"max-age=100", b"no-store"]), both);
        assert_eq!(read(&[b"no-store", b"max-age=100"]), both);
        assert_eq!(read(&[b"no-store, x=\"\xe9\""]), Control { no_store: true, ..Control::default() });
        assert_eq!(read(&[b"max-age=9", b"max-age=5, max-age=7"]).max_age_ms, Some(5_000));
        let headers =
            ["faq", "v2, \u{e9}t\u{e9}"].map(|v| ("x-littoral-cache-tags".to_string(), v.as_bytes().to_vec()));
        let mut headers = Vec::from(headers);
        headers.push(("x-littoral-cache-tags".into(), b"\xe9".to_vec()));
        let call = Call { head: Head { headers, ..Head::default() }, ..Call::default() };
        assert_eq!(tags(&call, "model:m".into()), ["model:m", "faq", "v2", "\u{e9}t\u{e9}"]);
    }

    #[test]
    fn how_old_an_answer_may_be_does_not_say_how_long_it_is_kept() {
        let planned = |control: &str| {
            let mut call = with("cache-control", control);
            let wish = Wish { deterministic: true, policy: Policy::Always, ttl_ms: 60_000 };
            fill(&mut call, wish, Vec::new(), String::new);
            let plan = call.draft.cache.unwrap();
            (plan.ttl_ms, plan.oldest_ms())
        };
        assert_eq!(planned(""), (60_000, 60_000));
        assert_eq!(planned("max-age=1"), (60_000, 1_000));
        assert_eq!(planned("max-age=0"), (60_000, 0));
        assert_eq!(planned("max-age=600"), (60_000, 60_000));
    }

    #[test]
    fn a_keys_rules_come_before_the_routes_and_those_before_everybodys() {
        let config: CacheConfig =
            serde_json::from_str(r#"{"ttl_ms":9,"routes":{"chat":{"policy":"always"}}}"#).unwrap();
        assert_eq!(config.rules("retrieval", Rules::default()), (Policy::Deterministic, 9));
        assert_eq!(config.rules("chat", Rules::default()), (Policy::Always, 9));
        let key = Rules { policy: Some(Policy::Off), ttl_ms: Some(7) };
        assert_eq!(config.rules("chat", key), (Policy::Off, 7));
        let mut call = Call::default();
        assert_eq!(key_rules(&call), Rules::default());
        call.draft.extra = vec![(extra_name::CACHE_RULES.into(), serde_json::to_string(&key).unwrap())];
        assert_eq!(key_rules(&call), key);
        call.draft.extra = vec![(extra_name::CACHE_RULES.into(), "{".into())];
        assert_eq!(key_rules(&call), Rules::default());
    }

    #[test]
    fn the_key_knows_what_changes_the_answer_and_nothing_else() {
        let model = Model { name: "m".into(), ..Model::default() };
        let key_of = |extra: &str| {
            let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}]{extra}}}"#);
            let request = ChatRequest::from_client(body.as_bytes()).unwrap();
            let canonical = request.to_bytes();
            key(request, &canonical, &model, "acme")
        };
        let written = ["", r#","stream":true"#, r#","stream_options":{"include_usage":true}"#];
        let both = written[1..].concat();
        let greedy = [r#","temperature":0"#, r#","temperature":0,"seed":7,"top_p":0.5,"top_k":3,"min_p":0.1"#];
        let groups: [&[&str]; 5] = [&[""], &greedy, &[r#","seed":7"#], &[r#","user_id":"ada""#], &[r#","top_p":0.5"#]];
        let mut keys = Vec::new();
        for group in groups {
            let first = key_of(group[0]);
            for extra in group {
                for how in written.iter().chain([&both.as_str()]) {
                    assert_eq!(key_of(&format!("{extra}{how}")), first, "{extra}{how}");
                }
            }
            assert!(!keys.contains(&first), "{group:?}");
            keys.push(first);
        }
        let alias = ChatRequest::from_client(br#"{"model":"a","messages":[{"role":"user","content":"hi"}]}"#).unwrap();
        let canonical = alias.to_bytes();
        assert_eq!(key(alias, &canonical, &model, "acme"), keys[0]);
    }

    #[test]
    fn tags_are_bounded_and_cannot_pass_for_a_model() {
        let read = |value: &str| tags(&with("x-littoral-cache-tags", value), "model:m".into());
        assert_eq!(read("faq, v2 ,,model:other,knowledge:k"), ["model:m", "faq", "v2"]);
        assert_eq!(read(&"x".repeat(65)), ["model:m"]);
        assert_eq!(read(&"x,".repeat(50)).len(), 9);
    }
}
