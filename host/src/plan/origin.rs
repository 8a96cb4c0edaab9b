//! Where an answer is to go on, and which nodes can: ours after its tokens, servers of OpenAI's API after its text, and
//! either after what the other said, where nothing that was asked for is lost by it.

use littoral_core::chat::{ChatRequest, ResponseFormat};
use littoral_proto::v1::Resume;

use crate::{
    config::{Kind, Node},
    upstream::{Continue, Said},
};

/// How a node goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the beginning, or after the tokens that were sent: the answer is what it would have been.
    Tokens,
    /// One of ours reads the text as tokens, and counts them as the answer's.
    Text,
    /// A server of OpenAI's API is given the text as the beginning of its message, and counts it as the prompt's.
    Message,
}

/// Where an answer is to go on.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Whether a node began it.
    pub begun: bool,
    /// The tokens sent, per choice; None where they are not known.
    pub tokens: Option<Vec<Resume>>,
    /// What was said; None where nobody can go on after it as text.
    pub said: Option<Said>,
    /// Whether one kind of node may go on with what the other said.
    pub across: bool,
    /// What the node drew, or was told to draw, the answer with.
    pub seed: Option<u64>,
    /// Every answer that was asked for has ended: only what it took is not known.
    pub over: bool,
}

impl Origin {
    /// Of an answer that no node has begun.
    pub fn beginning() -> Self {
        let (tokens, said) = (Some(Vec::new()), Some(Said::default()));
        Self { begun: false, tokens, said, across: true, seed: None, over: false }
    }

    /// Whether any node could go on from here.
    pub fn leads_on(&self) -> bool {
        self.tokens.is_some() || self.said.is_some()
    }

    /// How a node goes on from here; None if it cannot.
    pub fn way(&self, node: &Node) -> Option<Way> {
        let ours = self.tokens.as_ref().is_some_and(|tokens| !tokens.is_empty());
        match (node.kind, &self.said) {
            (Kind::Littoral, _) if self.tokens.is_some() => Some(Way::Tokens),
            (Kind::Littoral, Some(said)) => (self.across && said.reasoning.is_empty()).then_some(Way::Text),
            (Kind::OpenAi, Some(said)) if said.is_empty() && !ours => Some(Way::Tokens),
            (Kind::OpenAi, Some(said)) => {
                ((self.across || !ours) && (said.is_empty() || node.resume.follows(said))).then_some(Way::Message)
            }
            (_, None) => None,
        }
    }
}

/// Whether another can go on after text with what was asked for: one answer, of any form, that may yet be longer.
pub fn goes_on_as_text(request: &ChatRequest, said: &Said) -> bool {
    request.sampling.n == 1
        && request.response_format == ResponseFormat::Text
        && request.tool_choice.required(&request.tools).is_none()
        && request.max_tokens.is_none_or(|most| said.tokens < most)
}

/// Whether the answer may be made by nodes of both kinds: what one draws, or how likely it finds it, is not what the other
/// would have.
pub fn goes_across(request: &ChatRequest) -> bool {
    request.seed.is_none() && !request.sampling.logprobs
}

/// Whether what one of these nodes has begun can be gone on with, whichever of them it is and wherever it breaks off within
/// the text of an answer to this canonical request.
pub fn can_go_on<'a>(nodes: impl Iterator<Item = &'a Node> + Clone, canonical: &[u8]) -> bool {
    let mut kinds = nodes.clone().map(|node| node.kind).peekable();
    if kinds.peek().is_none() {
        return false;
    }
    if kinds.all(|kind| kind == Kind::Littoral) {
        return true;
    }
    let Ok(request) = ChatRequest::canonical(canonical) else { return false };
    let reads = |node: &Node| match node.kind {
        Kind::Littoral => goes_across(&request),
        Kind::OpenAi => node.resume != Continue::None,
    };
    goes_on_as_text(&request, &Said::default()) && nodes.clone().any(reads)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(kind: Kind, resume: Continue) -> Node {
        Node { kind, resume, ..Node::at("localhost:1") }
    }

    fn said(reasoning: &str, text: &str) -> Option<Said> {
        Some(Said { reasoning: reasoning.into(), text: text.into(), ..Said::default() })
    }

    /// How ours goes on, and servers that can do nothing, `prefix` and `message`.
    fn ways(origin: &Origin) -> [Option<Way>; 4] {
        let theirs = [Continue::None, Continue::Prefix, Continue::Message].map(|how| node(Kind::OpenAi, how));
        let [none, prefix, message] = theirs.each_ref().map(|node| origin.way(node));
        [origin.way(&node(Kind::Littoral, Continue::None)), none, prefix, message]
    }

    #[test]
    fn what_nobody_has_begun_begins_anywhere() {
        assert_eq!(ways(&Origin::beginning()), [Some(Way::Tokens); 4]);
    }

    #[test]
    fn ours_go_on_after_tokens_and_others_after_their_text() {
        let tokens = Some(vec![Resume { token_ids: vec![1], ..Resume::default() }]);
        let (exact, message) = (Some(Way::Tokens), Some(Way::Message));
        let origin = Origin { begun: true, tokens, ..Origin::beginning() };
        assert_eq!(ways(&origin), [exact, message, message, message], "nothing of the tokens was seen");
        let origin = Origin { said: said("", "Hello"), ..origin };
        assert_eq!(ways(&origin), [exact, None, message, message]);
        // What was asked for stands against it.
        for origin in [Origin { across: false, ..origin.clone() }, Origin { said: None, ..origin.clone() }] {
            assert_eq!(ways(&origin), [exact, None, None, None]);
        }
        // DeepSeek takes reasoning that is over; nobody goes on within it.
        assert_eq!(ways(&Origin { said: said("hm", "Hello"), ..origin.clone() }), [exact, None, message, None]);
        assert_eq!(ways(&Origin { said: said("hm", ""), ..origin }), [exact, None, None, None]);
    }

    #[test]
    fn theirs_go_on_after_text_and_ours_read_it() {
        let origin = Origin { begun: true, tokens: None, said: said("", "Hello"), ..Origin::beginning() };
        let (read, message) = (Some(Way::Text), Some(Way::Message));
        assert_eq!(ways(&origin), [read, None, message, message]);
        assert_eq!(ways(&Origin { across: false, ..origin.clone() }), [None, None, message, message]);
        assert_eq!(ways(&Origin { said: said("hm", "Hello"), ..origin.clone() }), [None, None, message, None]);
        let none = Origin { said: None, ..origin };
        assert_eq!((ways(&none), none.leads_on()), ([None; 4], false));
    }

    #[test]
    fn what_nobody_can_go_on_with_is_told_from_what_somebody_can() {
        let asked = |extra: &str| {
            let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}]{extra}}}"#);
            ChatRequest::from_client(body.as_bytes()).unwrap().to_bytes()
        };
        let ours = node(Kind::Littoral, Continue::None);
        let [none, prefix] = [Continue::None, Continue::Prefix].map(|how| node(Kind::OpenAi, how));
        for (nodes, plain, seeded, two) in [
            (vec![], false, false, false),
            (vec![&ours], true, true, true),
            (vec![&none], false, false, false),
            (vec![&none, &prefix], true, true, false),
            (vec![&ours, &none], true, false, false),
        ] {
            let can = |extra: &str| can_go_on(nodes.iter().copied(), &asked(extra));
            assert_eq!((can(""), can(r#","seed":7"#), can(r#","n":2"#)), (plain, seeded, two), "{nodes:?}");
        }
    }

    #[test]
    fn what_was_asked_for_is_not_lost_on_the_way() {
        let asked = |extra: &str| {
            let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}]{extra}}}"#);
            ChatRequest::from_client(body.as_bytes()).unwrap()
        };
        let tool = r#","tools":[{"type":"function","function":{"name":"f"}}]"#;
        let sent = Said { text: "Hello".into(), tokens: 3, ..Said::default() };
        for (extra, as_text, across) in [
            ("", true, true),
            (tool, true, true),
            (r#","max_tokens":4"#, true, true),
            (r#","max_tokens":3"#, false, true),
            (r#","n":2"#, false, true),
            (r#","response_format":{"type":"json_object"}"#, false, true),
            (&format!(r#"{tool},"tool_choice":"required""#), false, true),
            (r#","seed":7"#, true, false),
            (r#","logprobs":true"#, true, false),
        ] {
            let request = asked(extra);
            assert_eq!((goes_on_as_text(&request, &sent), goes_across(&request)), (as_text, across), "{extra}");
        }
    }
}
