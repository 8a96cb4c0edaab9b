//! The records of `wit/types.wit` and `wit/policy.wit` as plain Rust, for decisions and their tests.
//!
//! Field by field the same as the WIT records; their meaning is documented there.

use std::borrow::Cow;

/// Names and values, in order; names may repeat.
pub type Pairs = Vec<(String, String)>;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Head {
    pub method: String,
    pub path: String,
    pub query: Option<String>,
    /// Lower-case names; values as they came.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Head {
    /// The first header of this lower-case name, if its value is UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(n, _)| n == name)?;
        std::str::from_utf8(value).ok()
    }

    /// All lines of a header that is a list, as one (RFC 9110, section 5.3). What is no UTF-8 is U+FFFD in it: one such
    /// sign says nothing of what stands beside it.
    pub fn list(&self, name: &str) -> Cow<'_, str> {
        let mut lines = self.headers.iter().filter(|(n, _)| n == name).map(|(_, value)| String::from_utf8_lossy(value));
        let first = lines.next().unwrap_or_default();
        lines.fold(first, |all, line| Cow::Owned([&all, ", ", &line].concat()))
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    pub kind: String,
    pub key: String,
    pub value: Option<Vec<u8>>,
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Want {
    Body,
    /// (kind, key)
    Fact(String, String),
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Principal {
    pub tenant: String,
    pub key_id: String,
    pub user: String,
    pub method: String,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rendering {
    pub dialect: String,
    pub model: String,
    pub stream: bool,
    pub include_usage: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Charge {
    pub kind: String,
    pub key: String,
    pub amount: u64,
    pub limit: u64,
    pub window_ms: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct CachePlan {
    pub key: String,
    pub scope: String,
    pub ttl_ms: u64,
    pub max_age_ms: Option<u64>,
    pub mode: String,
    pub tags: Vec<String>,
    pub reason: String,
}

impl CachePlan {
    /// The age that an answer must not have reached to be given, milliseconds.
    pub fn oldest_ms(&self) -> u64 {
        self.max_age_ms.unwrap_or(self.ttl_ms).min(self.ttl_ms)
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Candidate {
    pub node: String,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Effect {
    pub kind: String,
    pub key: String,
    pub value: Vec<u8>,
    pub ttl_ms: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Memo {
    pub ttl_ms: u64,
    pub vary: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    pub principal: Option<Principal>,
    /// [`operation::GENERATE`] or the name of a service; empty while undecided.
    pub operation: String,
    pub rendering: Option<Rendering>,
    pub request: Vec<u8>,
    pub session: String,
    pub deadline_ms: u64,
    pub seed: Option<u64>,
    pub charges: Vec<Charge>,
    pub cache: Option<CachePlan>,
    pub candidates: Vec<Candidate>,
    pub filters: Vec<String>,
    pub effects: Vec<Effect>,
    pub memo: Option<Memo>,
    pub compression: Vec<String>,
    pub audit: Pairs,
    pub extra: Pairs,
}

impl Plan {
    /// Tenant of the principal; empty before authentication.
    pub fn tenant(&self) -> &str {
        self.principal.as_ref().map_or("", |p| &p.tenant)
    }
}

/// Values of [`Plan::operation`].
pub mod operation {
    pub const GENERATE: &str = "generate";
    pub const MODELS: &str = "models";
    /// Dify's External Knowledge API; the plan's request is the canonical one.
    pub const RETRIEVAL: &str = "retrieval";
    /// Arguments: JSON of [`crate::oauth::Grant`].
    pub const OAUTH_TOKEN: &str = "oauth-token";
    /// Arguments: JSON of [`crate::step_up::Proof`].
    pub const STEP_UP: &str = "step-up";
}

/// Values of [`Rendering::dialect`].
pub mod dialect {
    /// `POST /chat/completions` of DeepSeek and OpenAI.
    pub const CHAT: &str = "chat";
}

/// Values of [`CachePlan::mode`].
pub mod cache_mode {
    pub const USE: &str = "use";
    pub const REFRESH: &str = "refresh";
    pub const BYPASS: &str = "bypass";
}

/// Values of [`Fact::kind`].
pub mod fact_kind {
    /// Key: the id of an API key. Value: JSON of [`crate::key::KeyRecord`].
    pub const API_KEY: &str = "api-key";
    /// Key: the name of a section. Value: JSON.
    pub const CONFIG: &str = "config";
    /// Key: [`crate::token::key_of`]. Value: JSON of [`crate::token::Trust`], none for an issuer whose tokens are not taken.
    pub const ISSUER: &str = "issuer";
    /// Key: [`crate::token::key_of`]. Value: JSON of [`crate::token::jwks::Key`]. One that is not in memory may be fetched.
    pub const VERIFYING_KEY: &str = "verifying-key";
    /// Key: [`crate::token::revoked_by`]. Value: JSON of [`crate::token::Revocation`], the later of the token's own and its
    /// subject's, none when neither was revoked.
    pub const REVOKED: &str = "revoked";
    /// Key: an address. Value: JSON of [`crate::step_up::place::Place`].
    pub const PLACE: &str = "place";
    /// Key: [`crate::step_up::user_key`]. Value: JSON of [`crate::step_up::place::Seen`], none for a user never seen.
    pub const SEEN: &str = "seen";
    /// Key: the name of a tenant. Value: JSON of [`crate::limits::TenantPolicy`], none when nothing is said of it.
    pub const TENANT: &str = "tenant";
}

/// Values of [`Effect::kind`].
pub mod effect_kind {
    /// Key: [`crate::step_up::user_key`]. Value: JSON of the [`crate::step_up::place::Place`] the user was seen at.
    pub const SEE: &str = "see";
}

/// Names in [`Plan::extra`]; the values are JSON.
pub mod extra_name {
    /// [`crate::limits::Reservation`]
    pub const RESERVATION: &str = "reservation";
    /// [`crate::cache::Rules`] of the key that opened the door.
    pub const CACHE_RULES: &str = "cache-rules";
    /// [`crate::oauth::Grant`]
    pub const GRANT: &str = "grant";
    /// [`crate::token::Origin`] of a token with which a second factor is proven.
    pub const ORIGIN: &str = "origin";
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Denial {
    pub status: u16,
    pub code: String,
    pub message: String,
    pub headers: Pairs,
    pub audit: Pairs,
    pub extra: Pairs,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Model {
    pub name: String,
    pub revision: String,
    pub context_length: u32,
    pub created: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Call {
    pub head: Head,
    pub peer: String,
    pub now_ms: u64,
    pub body: Option<Vec<u8>>,
    pub facts: Vec<Fact>,
    pub draft: Plan,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    Bytes(Vec<u8>),
    /// The guest opens a generation with the reply's plan.
    Generation,
    /// (name, arguments) of a host service.
    Service(String, String),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub status: u16,
    pub headers: Pairs,
    pub body: Body,
    pub plan: Plan,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Reply(Box<Reply>),
    Denial(Denial),
    Need(Vec<Want>),
}

impl From<Denial> for Outcome {
    fn from(denial: Denial) -> Self {
        Outcome::Denial(denial)
    }
}
