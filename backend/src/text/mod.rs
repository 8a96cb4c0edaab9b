//! Tokens and text: the tokenizer, the chat template and the streaming detokeniser.

mod bytes;
mod clock;
mod decoder;
mod detokenizer;
mod pretokenizer;
mod special;
mod template;
mod tokenizer;
mod vocabulary;

pub use detokenizer::Detokenizer;
pub use template::{ChatTemplate, Prompt, TemplateError};
pub use tokenizer::Tokenizer;
