//! Tokens and text: the tokenizer, the chat template and the streaming detokeniser.

mod bytes;
mod clock;
mod detokenizer;
mod pretokenizer;
mod special;
mod template;
mod tokenizer;

pub use detokenizer::Detokenizer;
pub use template::{ChatTemplate, TemplateError};
pub use tokenizer::Tokenizer;
