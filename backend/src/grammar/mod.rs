//! Structured output: which tokens may come next so that the answer matches a grammar.
//!
//! The work is llguidance's. Here are its bounds: grammars are compiled where requests are prepared, kept for others that
//! ask for the same, and limited in size and in the work of one step; what exceeds a limit is that request's error.

mod bounds;
mod calls;
mod masker;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use llguidance::{
    Matcher, ParserFactory,
    api::{ParserLimits, TopLevelGrammar},
};
use serde_json::{Value, json};
use toktrie::{ApproximateTokEnv, SimpleVob, TokRxInfo, TokTrie};

pub use masker::{Masker, Masks, Pending};

/// Compiled grammars that are kept.
const KEPT: usize = 32;
/// Work of compiling one that is counted, about 20 ms; what is not, [`bounds`] keeps small.
const COMPILE_FUEL: u64 = 1_000_000;
/// Work of one step's mask: about 5 ms of lexing and 1 ms of parsing.
const STEP_FUEL: u64 = 70_000;
const STEP_ITEMS: usize = 20_000;
/// Lexer states of one grammar, 1 to 2 KiB each.
const STATES: usize = 20_000;
/// White space between two parts of a JSON value: a blank or some, or a new line and what the next one is indented by.
const WHITE_SPACE: &str = r"[ \t]{1,32}|\r?\n[ \t]{0,32}";
/// Symbols of one grammar.
const SYMBOLS: usize = 200_000;

/// What the answer must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// Any JSON object.
    JsonObject,
    /// A JSON schema; [`Spec::json_schema`] makes one.
    JsonSchema(String),
    /// A regular expression, in the syntax of the crate regex, for the whole answer.
    Regex(String),
    /// A grammar in llguidance's Lark.
    Lark(String),
}

/// Why an answer cannot be held to a grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    #[error("the grammar cannot be compiled: {0}")]
    Compile(String),
    #[error("the answer cannot go on within its grammar: {0}")]
    Step(String),
}

/// The vocabulary as grammars see it, and the grammars compiled for it.
pub struct Grammars {
    vocabulary: Box<dyn Fn() -> Vec<Vec<u8>> + Send + Sync>,
    ends: Arc<[u32]>,
    factory: OnceLock<Result<ParserFactory, String>>,
    /// The most recently used last.
    kept: Mutex<Vec<(Spec, Matcher)>>,
    /// Held while one is compiled: however many are new, they take one core from those who answer.
    compiling: Mutex<()>,
}

/// One answer's place in its grammar.
pub struct Grammar {
    matcher: Matcher,
    ends: Arc<[u32]>,
}

impl Spec {
    /// The grammar of a JSON schema, if it is not one that would take too long to compile.
    pub fn json_schema(schema: &Value) -> Result<Self, GrammarError> {
        bounds::check(schema).map_err(GrammarError::Compile)?;
        Ok(Self::JsonSchema(schema.to_string()))
    }
}

impl Grammars {
    /// `vocabulary` gives the bytes of every token, none for those without text; it is asked once, when the first grammar
    /// is wanted. An answer may end with any of `ends`.
    pub fn new(vocabulary: impl Fn() -> Vec<Vec<u8>> + Send + Sync + 'static, ends: Arc<[u32]>) -> Self {
        Self {
            vocabulary: Box::new(vocabulary),
            ends,
            factory: OnceLock::new(),
            kept: Mutex::default(),
            compiling: Mutex::default(),
        }
    }

    /// A grammar at its beginning. Takes some milliseconds for one that is new, and the turns of others that are.
    pub fn get(&self, spec: &Spec) -> Result<Grammar, GrammarError> {
        if let Some(known) = self.known(spec) {
            return Ok(known);
        }
        let _turn = self.compiling.lock().unwrap_or_else(PoisonError::into_inner);
        // Who asked for the same meanwhile has had it compiled.
        if let Some(known) = self.known(spec) {
            return Ok(known);
        }
        let matcher = self.compile(spec)?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push((spec.clone(), matcher.deep_clone()));
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
        Ok(Grammar { matcher, ends: self.ends.clone() })
    }

    fn known(&self, spec: &Spec) -> Option<Grammar> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(known, _)| known == spec)?;
        let known = kept.remove(at);
        let matcher = known.1.deep_clone();
        kept.push(known);
        Some(Grammar { matcher, ends: self.ends.clone() })
    }

    fn compile(&self, spec: &Spec) -> Result<Matcher, GrammarError> {
        let told = |e: anyhow::Error| GrammarError::Compile(kind(&format!("{e:#}")));
        let factory = self.factory.get_or_init(|| self.factory()).as_ref();
        let factory = factory.map_err(|e| GrammarError::Compile(e.clone()))?;
        let json = |schema| Ok(TopLevelGrammar::from_json_schema(laid_out(schema)));
        let grammar = match spec {
            Spec::JsonObject => json(json!({"type": "object"})),
            Spec::JsonSchema(schema) => serde_json::from_str(schema).map_err(anyhow::Error::from).and_then(json),
            Spec::Regex(regex) => TopLevelGrammar::from_tagged_str("regex", regex),
            Spec::Lark(lark) => TopLevelGrammar::from_tagged_str("lark", lark),
        };
        let mut matcher = Matcher::new(factory.create_parser(grammar.map_err(told)?));
        // A grammar that cannot begin is not kept.
        matcher.compute_mask_or_eos().map_err(told)?;
        Ok(matcher)
    }

    fn factory(&self) -> Result<ParserFactory, String> {
        let words = (self.vocabulary)();
        let end = self.ends.first().copied().ok_or("the vocabulary has no token that ends an answer")?;
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, end), &words);
        let environment: toktrie::TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment).map_err(|e| e.to_string())?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            initial_lexer_fuel: COMPILE_FUEL,
            step_lexer_fuel: STEP_FUEL,
            step_max_items: STEP_ITEMS,
            max_lexer_states: STATES,
            max_grammar_size: SYMBOLS,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(factory)
    }
}

impl Grammar {
    /// A copy that goes its own way.
    fn fork(&self) -> Self {
        Self { matcher: self.matcher.deep_clone(), ends: self.ends.clone() }
    }

    /// Takes the next token of the answer in.
    pub fn accept(&mut self, id: u32) -> Result<(), GrammarError> {
        if self.ends.contains(&id) {
            return Ok(());
        }
        self.matcher.consume_token(id).map_err(|e| GrammarError::Step(short(&e.to_string())))
    }

    /// The tokens that may come before the grammar begins to hold: all that do not end the answer.
    pub fn before(&self) -> SimpleVob {
        // Where the matcher has failed there are none, and the failure is told when it is asked for a mask.
        let known = self.matcher.tok_env().map_or(0, |environment| environment.tok_trie().vocab_size());
        let mut mask = SimpleVob::alloc_ones(known);
        self.ends.iter().filter(|end| (**end as usize) < known).for_each(|end| mask.disallow_token(*end));
        mask
    }

    /// The tokens that may come next.
    pub fn mask(&mut self) -> Result<SimpleVob, GrammarError> {
        let mut mask = self.matcher.compute_mask_or_eos().map_err(|e| GrammarError::Step(short(&e.to_string())))?;
        if self.ends.first().is_some_and(|end| mask.is_allowed(*end)) {
            let known = mask.len();
            self.ends.iter().filter(|end| (**end as usize) < known).for_each(|end| mask.allow_token(*end));
        }
        Ok(mask)
    }
}

/// A schema whose values may be laid out as people and `json.dumps` do. Anything more is of no use to anybody, and a model
/// that has begun to write white space may find no end of it.
fn laid_out(schema: Value) -> Value {
    let mut schema = if schema == Value::Bool(true) { json!({}) } else { schema };
    if let Value::Object(map) = &mut schema {
        map.insert("x-guidance".into(), json!({ "whitespace_pattern": WHITE_SPACE }));
    }
    schema
}

/// The library's words for whoever wrote the grammar.
fn kind(message: &str) -> String {
    if message.contains("NoExtensionBias") {
        return "no answer matches it".into();
    }
    if message.contains("oneOf constraints are not supported") {
        return "'oneOf' is not supported: please write 'anyOf'".into();
    }
    short(message)
}

/// The first line of a message and, where it has more, the cause that is named in one of them; not too much of either.
fn short(message: &str) -> String {
    let begin = |text: &str, most: usize| text.chars().take(most).collect::<String>();
    let first = message.lines().next().unwrap_or_default().trim_end_matches(':');
    match message.lines().find_map(|line| line.trim().strip_prefix("error: ")) {
        Some(cause) => format!("{}: {}", begin(first, 200), begin(cause, 100)),
        None => begin(first, 300),
    }
}
