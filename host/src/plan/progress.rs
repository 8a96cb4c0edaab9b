//! How far an answer has come: what another node needs to go on with it, and what a node that goes on may send.

use littoral_core::chat::{ChatRequest, MAX_N};
use littoral_proto::v1::{Delta, Event, Finished, Resume, Usage, delta::Part, event::Kind};

use super::{
    dispatch::Ask,
    origin::{Origin, Way, goes_across, goes_on_as_text},
};
use crate::upstream::Said;

/// Longer text is not held for a continuation, bytes.
const MAX_SAID: usize = 1 << 20;

/// What has been sent to the client.
#[derive(Debug, Default)]
pub struct Progress {
    seed: Option<u64>,
    /// The prompt's tokens, and those of them found in a cache, when a node said so as it began.
    prompt: Option<(u32, u32)>,
    choices: Vec<Choice>,
    /// What was said of the first choice; its count is of the tokens up to the last word of it.
    said: Said,
    /// More was said than that: a call, another choice, or more than is held.
    more: bool,
    /// The answer went on after text.
    spliced: bool,
    /// What the server that has the answer now counts as its prompt.
    given: Option<Given>,
}

/// Tokens of an answer that its second server was given as text.
#[derive(Debug)]
struct Given {
    tokens: u32,
    reasoning: u32,
}

#[derive(Debug, Default)]
struct Choice {
    number: u32,
    /// The tokens sent, as long as all are known.
    token_ids: Vec<u32>,
    /// What came without its tokens, or after text: a part is a token with most servers.
    parts: u32,
    /// Tokens that nothing was said of, and whose place others took.
    forgotten: u32,
    /// Deltas that say more of the last token, sent; and those of them that the node which has the answer now has said.
    more: u32,
    again: u32,
    finished: bool,
}

/// What is to be done with an event.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// It is what comes next.
    Pass,
    /// It was sent before.
    Drop,
    /// The node says what no node can say here; why.
    Garbage(&'static str),
}

impl Choice {
    fn tokens(&self) -> u32 {
        (self.token_ids.len() as u32 + self.parts).saturating_sub(self.forgotten)
    }

    /// Whether a delta is what comes next.
    fn take(&mut self, delta: &Delta) -> Verdict {
        let (at, sent) = (delta.index as usize, self.token_ids.len());
        if delta.token_ids.is_empty() {
            if at < sent && self.parts == 0 {
                // More of what a token says. Of the last one some may have been lost with a node.
                self.again += u32::from(at + 1 == sent);
                if self.again <= self.more {
                    return Verdict::Drop;
                }
                self.more = self.again;
                return Verdict::Pass;
            }
            self.parts += u32::from(delta.part.is_some());
            return Verdict::Pass;
        }
        if self.parts > 0 {
            if at == 0 {
                return Verdict::Garbage("an answer that begins anew after text");
            }
            self.parts += delta.token_ids.len() as u32;
            return Verdict::Pass;
        }
        if at == sent {
            (self.more, self.again) = (0, 0);
            self.token_ids.extend_from_slice(&delta.token_ids);
            return Verdict::Pass;
        }
        // A node that began anew instead of going on: what it repeats is checked and left out.
        match self.token_ids.get(at..at + delta.token_ids.len()) {
            Some(known) if known == delta.token_ids => Verdict::Drop,
            Some(_) => Verdict::Garbage("other tokens than those that were sent"),
            None if at < sent => Verdict::Garbage("tokens that cannot be told from those that were sent"),
            None => Verdict::Garbage("tokens that leave others out"),
        }
    }
}

impl Progress {
    /// Takes an event in, unless it does not belong where the answer is.
    pub fn take(&mut self, event: &Event) -> Verdict {
        match &event.kind {
            None => Verdict::Drop,
            Some(Kind::Started(started)) => {
                let again = self.seed.is_some();
                self.seed.get_or_insert(started.seed);
                if started.prompt_tokens > 0 {
                    self.prompt.get_or_insert((started.prompt_tokens, started.cached_tokens));
                }
                if again { Verdict::Drop } else { Verdict::Pass }
            }
            Some(_) if self.seed.is_none() => Verdict::Garbage("an answer that was not started"),
            Some(Kind::Delta(Delta { choice, .. }) | Kind::Finished(Finished { choice, .. })) if *choice >= MAX_N => {
                Verdict::Garbage("an answer that nobody can ask for")
            }
            Some(Kind::Delta(delta)) => self.delta(delta),
            Some(Kind::Finished(finished)) => {
                let choice = self.choice(finished.choice);
                if std::mem::replace(&mut choice.finished, true) { Verdict::Drop } else { Verdict::Pass }
            }
            Some(Kind::Usage(_) | Kind::Error(_)) => Verdict::Pass,
        }
    }

    fn delta(&mut self, delta: &Delta) -> Verdict {
        if self.spliced && matches!(&delta.part, Some(Part::Reasoning(more)) if !more.is_empty()) {
            // It has not gone on, whatever it does.
            return Verdict::Garbage("reasoning after text");
        }
        let choice = self.choice(delta.choice);
        let verdict = choice.take(delta);
        if verdict == Verdict::Pass {
            let tokens = choice.tokens();
            self.hear(delta, tokens);
        }
        verdict
    }

    /// Keeps what was said with the last of so many tokens.
    fn hear(&mut self, delta: &Delta, tokens: u32) {
        let Said { text, reasoning, .. } = &mut self.said;
        let full = text.len() + reasoning.len() >= MAX_SAID;
        match &delta.part {
            None => return,
            Some(Part::Text(said) | Part::Reasoning(said)) if said.is_empty() => return,
            Some(Part::Text(said)) if delta.choice == 0 && !full => text.push_str(said),
            // Only what an answer begins with is reasoning; what comes later is said in no other order.
            Some(Part::Reasoning(said)) if delta.choice == 0 && !full && text.is_empty() => {
                reasoning.push_str(said);
                self.said.reasoned = tokens;
            }
            Some(_) => self.more = true,
        }
        self.said.tokens = tokens;
    }

    fn choice(&mut self, number: u32) -> &mut Choice {
        let at = self.choices.iter().position(|choice| choice.number == number).unwrap_or_else(|| {
            self.choices.push(Choice { number, ..Choice::default() });
            self.choices.len() - 1
        });
        &mut self.choices[at]
    }

    /// What the node drew, or was told to draw, the answer with; none before it began.
    pub fn seed(&self) -> Option<u64> {
        self.seed
    }

    /// Tokens sent, over all choices.
    pub fn tokens(&self) -> u32 {
        self.choices.iter().map(Choice::tokens).sum()
    }

    /// The tokens the next node is told; none where they are not known.
    fn resume_from(&self) -> Option<Vec<Resume>> {
        if self.choices.iter().any(|choice| choice.parts > 0) {
            return None;
        }
        let sent = self.choices.iter().filter(|choice| !choice.token_ids.is_empty());
        Some(sent.map(|c| Resume { choice: c.number, token_ids: c.token_ids.clone(), ..Resume::default() }).collect())
    }

    /// All that the next node may be told, of an answer to this.
    pub fn origin(&self, ask: &Ask) -> Origin {
        if self.seed.is_none() {
            return Origin::beginning();
        }
        let request = ChatRequest::canonical(&ask.request).ok();
        let finished = self.choices.iter().filter(|choice| choice.finished).count();
        let at = self.choices.first().map_or(0, |choice| choice.token_ids.len() as u32 + choice.parts);
        let said = Said { at, ..self.said.clone() };
        let suits = |request| self.tokens() == 0 || goes_on_as_text(request, &said);
        let as_text = finished == 0 && !self.more && request.as_ref().is_some_and(suits);
        Origin {
            begun: true,
            tokens: self.resume_from(),
            said: as_text.then_some(said),
            across: ask.seed.is_none() && request.as_ref().is_some_and(goes_across),
            seed: self.seed,
            over: request.is_some_and(|request| finished == request.sampling.n as usize),
        }
    }

    /// A node goes on this way.
    pub fn goes_on(&mut self, way: Way) {
        let said = &self.said;
        self.given = None;
        self.spliced |= way != Way::Tokens && !said.text.is_empty();
        let left_out = if way == Way::Message { self.tokens().saturating_sub(said.tokens) } else { 0 };
        if way == Way::Message {
            self.given = Some(Given { tokens: said.tokens, reasoning: said.reasoned });
        }
        self.choices.iter_mut().for_each(|choice| choice.again = 0);
        if let Some(choice) = self.choices.first_mut() {
            choice.forgotten = if way == Way::Tokens { 0 } else { choice.forgotten + left_out };
        }
    }

    /// Sets right what a node counts that went on: tokens are billed once and none is forgotten. One of ours counts what
    /// it was given as its own; a server that was given text has counted that to the prompt.
    pub fn settle(&self, usage: &mut Usage) {
        if let Some(given) = &self.given {
            usage.completion_tokens += given.tokens;
            usage.reasoning_tokens += given.reasoning;
            (usage.prompt_tokens, usage.prompt_cache_hit_tokens) = self.prompt.unwrap_or_else(|| {
                let prompt = usage.prompt_tokens.saturating_sub(given.tokens);
                (prompt, usage.prompt_cache_hit_tokens.min(prompt))
            });
        } else if self.choices.iter().all(|choice| choice.parts == 0) {
            usage.completion_tokens = usage.completion_tokens.max(self.tokens());
        }
    }

    /// What the answer took, as far as it was seen here.
    pub fn usage(&self) -> Usage {
        let (prompt_tokens, prompt_cache_hit_tokens) = self.prompt.unwrap_or_default();
        let (completion_tokens, reasoning_tokens) = (self.tokens(), self.said.reasoned);
        Usage { prompt_tokens, completion_tokens, prompt_cache_hit_tokens, reasoning_tokens }
    }
}

#[cfg(test)]
mod tests {
    use littoral_proto::v1::{Started, ToolCallFragment};

    use super::*;

    fn started(seed: u64) -> Event {
        Event { kind: Some(Kind::Started(Started { seed, ..Started::default() })) }
    }

    fn counted(prompt_tokens: u32) -> Event {
        Event { kind: Some(Kind::Started(Started { seed: 7, prompt_tokens, cached_tokens: 1, ..Started::default() })) }
    }

    fn says(index: u32, token_ids: &[u32], part: Part) -> Event {
        let delta = Delta { index, token_ids: token_ids.into(), part: Some(part), ..Delta::default() };
        Event { kind: Some(Kind::Delta(delta)) }
    }

    fn text(index: u32, token_ids: &[u32], text: &str) -> Event {
        says(index, token_ids, Part::Text(text.into()))
    }

    fn delta(index: u32, token_ids: &[u32]) -> Event {
        text(index, token_ids, "x")
    }

    fn finished() -> Event {
        Event { kind: Some(Kind::Finished(Finished::default())) }
    }

    fn after(events: &[Event]) -> Progress {
        let mut progress = Progress::default();
        for event in events {
            assert_eq!(progress.take(event), Verdict::Pass, "{event:?}");
        }
        progress
    }

    fn origin(progress: &Progress) -> Origin {
        let body = br#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
        progress.origin(&Ask {
            model: "m".into(),
            request: ChatRequest::from_client(body).unwrap().to_bytes().into(),
            session: String::new(),
            tenant: String::new(),
            user: String::new(),
            seed: None,
            request_id: String::new(),
        })
    }

    /// Text, tokens and position that a server is told; none where nobody can go on after text.
    fn said(progress: &Progress) -> Option<(String, u32, u32)> {
        origin(progress).said.map(|said| (said.text, said.tokens, said.at))
    }

    fn ids(progress: &Progress) -> Option<Vec<u32>> {
        Some(origin(progress).tokens?.into_iter().flat_map(|resume| resume.token_ids).collect())
    }

    #[test]
    fn what_a_second_node_says_again_is_left_out() {
        let mut progress = after(&[started(7), delta(0, &[10]), delta(1, &[11, 12])]);
        assert_eq!((progress.seed(), ids(&progress).unwrap()), (Some(7), vec![10, 11, 12]));
        assert_eq!(progress.take(&started(9)), Verdict::Drop);
        assert_eq!(progress.seed(), Some(7));
        // Whether it goes on or begins anew.
        assert_eq!(progress.take(&delta(0, &[10])), Verdict::Drop);
        assert_eq!(progress.take(&delta(1, &[11, 12])), Verdict::Drop);
        assert_eq!(progress.take(&delta(3, &[13])), Verdict::Pass);
        assert_eq!((progress.take(&finished()), progress.take(&finished())), (Verdict::Pass, Verdict::Drop));
        assert_eq!(progress.tokens(), 4);
    }

    #[test]
    fn a_token_that_says_several_things_is_one_token() {
        let reasoning = |index| says(index, &[10], Part::Reasoning("hm".into()));
        let mut progress = after(&[started(7), reasoning(0), text(0, &[], "Hi"), text(1, &[11], "!")]);
        assert_eq!((ids(&progress).unwrap(), progress.tokens()), (vec![10, 11], 2));
        assert_eq!(said(&progress), Some(("Hi!".into(), 2, 2)));
        // All of it is left out where it is said again.
        progress.goes_on(Way::Tokens);
        assert_eq!(progress.take(&reasoning(0)), Verdict::Drop);
        assert_eq!(progress.take(&text(0, &[], "Hi")), Verdict::Drop);
        assert_eq!(progress.take(&text(2, &[12], "?")), Verdict::Pass);
        assert_eq!(progress.take(&text(2, &[], "!")), Verdict::Pass);
        // What was lost of the last one is not, whether its first delta is said again or not.
        for anew in [false, true] {
            progress.goes_on(Way::Tokens);
            if anew {
                assert_eq!(progress.take(&text(2, &[12], "?")), Verdict::Drop);
                assert_eq!(progress.take(&text(2, &[], "?")), Verdict::Drop);
            }
            assert_eq!(progress.take(&text(2, &[], "!")), Verdict::Drop);
            assert_eq!(progress.take(&text(2, &[], "?")), Verdict::Pass);
        }
        assert_eq!(progress.take(&text(3, &[13], "")), Verdict::Pass);
        assert_eq!(progress.take(&text(3, &[], "!")), Verdict::Pass);
    }

    #[test]
    fn garbage_is_called_so() {
        let garbage = |progress: &mut Progress, event: &Event| matches!(progress.take(event), Verdict::Garbage(_));
        assert!(garbage(&mut Progress::default(), &delta(0, &[1])));
        let mut progress = after(&[started(7), delta(0, &[10, 11])]);
        for event in [delta(0, &[99]), delta(1, &[11, 12]), delta(3, &[13]), delta(u32::MAX, &[1])] {
            assert!(garbage(&mut progress, &event), "{event:?}");
        }
        assert_eq!(progress.take(&delta(2, &[12])), Verdict::Pass);
    }

    #[test]
    fn a_server_goes_on_after_text_and_what_it_was_given_is_no_prompt() {
        let mut progress = after(&[started(7), delta(0, &[]), delta(1, &[])]);
        assert_eq!((ids(&progress), said(&progress)), (None, Some(("xx".into(), 2, 2))));
        progress.goes_on(Way::Message);
        assert_eq!(progress.take(&delta(2, &[])), Verdict::Pass);
        let usage = Usage { prompt_tokens: 12, completion_tokens: 1, prompt_cache_hit_tokens: 11, reasoning_tokens: 0 };
        let mut settled = usage;
        progress.settle(&mut settled);
        assert_eq!((settled.prompt_tokens, settled.completion_tokens, settled.prompt_cache_hit_tokens), (10, 3, 10));
        // One that counts a word as two tokens, or nothing at all.
        for (counts, completion) in [(2, 4), (0, 2)] {
            let mut settled = Usage { completion_tokens: counts, ..usage };
            progress.settle(&mut settled);
            assert_eq!((settled.prompt_tokens, settled.completion_tokens), (10, completion));
        }
    }

    #[test]
    fn a_server_goes_on_after_tokens_and_they_are_counted_once() {
        // The last token, of half a character, is said again by whoever goes on.
        let mut progress = after(&[counted(5), text(0, &[10, 11], "Hello"), text(2, &[12], "")]);
        assert_eq!((ids(&progress).unwrap(), said(&progress)), (vec![10, 11, 12], Some(("Hello".into(), 2, 3))));
        progress.goes_on(Way::Message);
        assert_eq!(progress.tokens(), 2);
        // It says nothing: one of ours may still go on after the tokens.
        assert_eq!(ids(&progress).unwrap(), [10, 11, 12]);
        assert_eq!(progress.take(&text(3, &[], " you")), Verdict::Pass);
        assert_eq!((ids(&progress), said(&progress)), (None, Some(("Hello you".into(), 3, 4))));
        let mut usage =
            Usage { prompt_tokens: 9, completion_tokens: 1, prompt_cache_hit_tokens: 8, reasoning_tokens: 0 };
        progress.settle(&mut usage);
        assert_eq!((usage.prompt_tokens, usage.prompt_cache_hit_tokens, usage.completion_tokens), (5, 1, 3));
        // A node of ours reads it all as tokens, which it counts itself.
        progress.goes_on(Way::Text);
        assert!(matches!(progress.take(&text(0, &[20], "Hello")), Verdict::Garbage(_)), "it begins anew");
        assert_eq!(progress.take(&text(4, &[20], "!")), Verdict::Pass);
        let mut usage = Usage { prompt_tokens: 5, completion_tokens: 6, ..Usage::default() };
        progress.settle(&mut usage);
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (5, 6));
        assert_eq!((ids(&progress), said(&progress)), (None, Some(("Hello you!".into(), 4, 5))));
    }

    #[test]
    fn where_text_does_not_tell_all_nobody_goes_on_after_it() {
        let call = || Part::ToolCall(ToolCallFragment::default());
        let long = "x".repeat(MAX_SAID);
        for event in [
            says(1, &[], call()),
            says(1, &[], Part::Reasoning("hm".into())),
            finished(),
            Event {
                kind: Some(Kind::Delta(Delta { choice: 1, part: Some(Part::Text("x".into())), ..Delta::default() })),
            },
        ] {
            assert_eq!(said(&after(&[started(7), delta(0, &[]), event.clone()])), None, "{event:?}");
        }
        assert_eq!(said(&after(&[started(7), text(0, &[], &long), delta(1, &[])])), None);
        // Reasoning that goes on when the answer had begun is no continuation of it.
        let mut progress = after(&[started(7), delta(0, &[])]);
        progress.goes_on(Way::Message);
        assert!(matches!(progress.take(&says(1, &[], Part::Reasoning("hm".into()))), Verdict::Garbage(_)));
    }

    #[test]
    fn an_answer_that_has_ended_is_whole_without_its_usage() {
        let progress = after(&[counted(5), delta(0, &[10]), delta(1, &[11]), finished()]);
        assert!(origin(&progress).over);
        let Usage { prompt_tokens, completion_tokens, prompt_cache_hit_tokens, .. } = progress.usage();
        assert_eq!((prompt_tokens, completion_tokens, prompt_cache_hit_tokens), (5, 2, 1));
        assert!(!origin(&after(&[counted(5), delta(0, &[10])])).over);
    }

    #[test]
    fn tokens_are_billed_once() {
        let progress = after(&[started(7), delta(0, &[10, 11])]);
        for (said, settled) in [(0, 2), (2, 2), (3, 3)] {
            let mut usage = Usage { completion_tokens: said, ..Usage::default() };
            progress.settle(&mut usage);
            assert_eq!(usage.completion_tokens, settled);
        }
    }
}
