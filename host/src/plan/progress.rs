//! How far an answer has come: what another node needs to go on with it, and what a node that goes on may send.

use littoral_proto::v1::{Delta, Event, Resume, Usage, delta::Part, event::Kind};

use super::dispatch::Origin;
use crate::upstream::Said;

/// Longer text is not held for a continuation, bytes.
const MAX_SAID: usize = 1 << 20;

/// What has been sent to the client.
#[derive(Debug, Default)]
pub struct Progress {
    seed: Option<u64>,
    choices: Vec<Choice>,
    /// What was said in parts whose tokens are not known: nobody can go on after it by tokens.
    said: Option<Told>,
}

/// What a server told without its tokens.
#[derive(Debug, Default)]
struct Told {
    said: Said,
    /// It was not all plain text of one choice: nobody can go on after it at all.
    other: bool,
}

#[derive(Debug)]
struct Choice {
    number: u32,
    token_ids: Vec<u32>,
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

impl Progress {
    /// Takes an event in, unless it does not belong where the answer is.
    pub fn take(&mut self, event: &Event) -> Verdict {
        match &event.kind {
            None => Verdict::Drop,
            Some(Kind::Started(started)) => {
                let again = self.seed.is_some();
                self.seed.get_or_insert(started.seed);
                if again { Verdict::Drop } else { Verdict::Pass }
            }
            Some(_) if self.seed.is_none() => Verdict::Garbage("an answer that was not started"),
            Some(Kind::Delta(delta)) => self.delta(delta),
            Some(Kind::Finished(finished)) => {
                let choice = self.choice(finished.choice);
                if std::mem::replace(&mut choice.finished, true) { Verdict::Drop } else { Verdict::Pass }
            }
            Some(Kind::Usage(_) | Kind::Error(_)) => Verdict::Pass,
        }
    }

    fn delta(&mut self, delta: &Delta) -> Verdict {
        if delta.token_ids.is_empty() {
            if let Some(part) = &delta.part {
                let Told { said, other } = self.said.get_or_insert_default();
                said.parts += 1;
                match part {
                    Part::Text(text) if delta.choice == 0 && said.text.len() < MAX_SAID => said.text.push_str(text),
                    _ => *other = true,
                }
            }
            return Verdict::Pass;
        }
        let choice = self.choice(delta.choice);
        let (at, sent) = (delta.index as usize, choice.token_ids.len());
        if at == sent {
            choice.token_ids.extend_from_slice(&delta.token_ids);
            return Verdict::Pass;
        }
        // A node that began anew instead of going on: what it repeats is checked and left out.
        match choice.token_ids.get(at..at + delta.token_ids.len()) {
            Some(known) if known == delta.token_ids => Verdict::Drop,
            Some(_) => Verdict::Garbage("other tokens than those that were sent"),
            None if at < sent => Verdict::Garbage("tokens that cannot be told from those that were sent"),
            None => Verdict::Garbage("tokens that leave others out"),
        }
    }

    fn choice(&mut self, number: u32) -> &mut Choice {
        let at = self.choices.iter().position(|choice| choice.number == number).unwrap_or_else(|| {
            self.choices.push(Choice { number, token_ids: Vec::new(), finished: false });
            self.choices.len() - 1
        });
        &mut self.choices[at]
    }

    /// Whether another node can go on.
    pub fn can_resume(&self) -> bool {
        match &self.said {
            None => true,
            Some(told) => !told.other && self.tokens() == 0,
        }
    }

    /// What a server that goes on after text is told; empty when nothing was said without tokens.
    fn said(&self) -> Said {
        self.said.as_ref().map(|told| told.said.clone()).unwrap_or_default()
    }

    /// What the node drew, or was told to draw, the answer with; none before it began.
    pub fn seed(&self) -> Option<u64> {
        self.seed
    }

    /// Tokens sent, over all choices.
    pub fn tokens(&self) -> u32 {
        self.choices.iter().map(|choice| choice.token_ids.len() as u32).sum()
    }

    /// What the next node is told.
    pub fn resume_from(&self) -> Vec<Resume> {
        let sent = self.choices.iter().filter(|choice| !choice.token_ids.is_empty());
        sent.map(|c| Resume { choice: c.number, token_ids: c.token_ids.clone() }).collect()
    }

    /// All that the next node is told.
    pub fn origin(&self) -> Origin {
        Origin { tokens: self.resume_from(), said: self.said(), seed: self.seed() }
    }

    /// Sets right what a node counts that went on: tokens are billed once and none is forgotten. One of ours counts the
    /// tokens it was given as its own; a server that was given text has counted that to the prompt.
    pub fn settle(&self, usage: &mut Usage, resumed: bool) {
        match &self.said {
            None => usage.completion_tokens = usage.completion_tokens.max(self.tokens()),
            Some(Told { said, .. }) if resumed => {
                let before = said.parts.saturating_sub(usage.completion_tokens).min(usage.prompt_tokens);
                usage.prompt_tokens -= before;
                usage.completion_tokens += before;
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use littoral_proto::v1::{Finished, Started};

    use super::*;

    fn started(seed: u64) -> Event {
        Event { kind: Some(Kind::Started(Started { seed, ..Started::default() })) }
    }

    fn delta(index: u32, token_ids: &[u32]) -> Event {
        let part = Some(Part::Text("x".into()));
        Event { kind: Some(Kind::Delta(Delta { index, token_ids: token_ids.into(), part, ..Delta::default() })) }
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

    #[test]
    fn what_a_second_node_says_again_is_left_out() {
        let mut progress = after(&[started(7), delta(0, &[10]), delta(1, &[11, 12])]);
        let resume = progress.resume_from();
        assert_eq!((progress.seed(), resume[0].token_ids.as_slice()), (Some(7), &[10, 11, 12][..]));
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
    fn text_without_tokens_is_continued_by_text() {
        let mut progress = after(&[started(7), delta(0, &[10])]);
        assert!(progress.can_resume());
        assert_eq!(progress.take(&delta(1, &[])), Verdict::Pass);
        assert!(!progress.can_resume(), "half of either");
        let progress = after(&[started(7), delta(0, &[]), delta(1, &[]), delta(2, &[])]);
        assert_eq!((progress.can_resume(), progress.said()), (true, Said { text: "xxx".into(), parts: 3 }));
        // The second server was given the first one's two tokens as a prompt and made one more.
        let mut usage = Usage { prompt_tokens: 12, completion_tokens: 1, ..Usage::default() };
        progress.settle(&mut usage, true);
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (10, 3));
    }

    #[test]
    fn tokens_are_billed_once() {
        let progress = after(&[started(7), delta(0, &[10, 11])]);
        for (said, settled) in [(0, 2), (2, 2), (3, 3)] {
            let mut usage = Usage { completion_tokens: said, ..Usage::default() };
            progress.settle(&mut usage, true);
            assert_eq!(usage.completion_tokens, settled);
        }
    }
}
