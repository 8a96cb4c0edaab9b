//! An answer as bytes of the store.

use littoral_proto::{
    prost::Message,
    v1::{StoredAnswer, event::Kind},
};

/// Before every entry: what it is, and in which form. An entry of another form is none.
const MAGIC: &[u8] = b"LTA1";

/// An answer that came from the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored(pub StoredAnswer);

impl Stored {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        self.0.encode(&mut bytes).expect("a vector takes every byte");
        bytes
    }

    /// None when the bytes are no answer of this form, or not a whole one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let answer = StoredAnswer::decode(bytes.strip_prefix(MAGIC)?).ok()?;
        let last = answer.events.last().and_then(|event| event.kind.as_ref());
        matches!(last, Some(Kind::Usage(_))).then_some(Self(answer))
    }
}

#[cfg(test)]
mod tests {
    use littoral_proto::v1::{Event, Usage};

    use super::*;

    #[test]
    fn an_answer_comes_back_as_it_was_and_nothing_else_passes_for_one() {
        let usage = Event { kind: Some(Kind::Usage(Usage { prompt_tokens: 3, ..Usage::default() })) };
        let whole =
            Stored(StoredAnswer { scope: "acme".into(), events: vec![usage], purge: 7, ..StoredAnswer::default() });
        let bytes = whole.encode();
        assert_eq!(Stored::decode(&bytes), Some(whole));
        let partial = Stored(StoredAnswer { scope: "acme".into(), ..StoredAnswer::default() }).encode();
        for bad in [&b""[..], b"LTA1", b"LTA2\x0a\x01a", b"garbage", &bytes[..bytes.len() - 1], &partial] {
            assert_eq!(Stored::decode(bad), None, "{bad:?}");
        }
    }
}
