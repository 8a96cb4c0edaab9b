//! What is to be forgotten, and what was begun before that was said: an answer whose generation is older than a purge
//! that means it is not kept.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::answer::Place;

/// Purges that are remembered; a generation older than all of them is not kept, whatever they said.
const REMEMBERED: usize = 1024;

/// Which answers are to be forgotten. What is not named does not matter; an empty purge means every answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Purge {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag_prefix: Option<String>,
}

impl Purge {
    /// Whether it means the answer of this place: everything that is named must fit.
    pub fn means(&self, place: &Place) -> bool {
        let tagged = |fits: &dyn Fn(&str) -> bool| place.tags.iter().any(|tag| fits(tag));
        self.tenant.as_ref().is_none_or(|tenant| *tenant == place.scope)
            && self.model.as_ref().is_none_or(|model| tagged(&|tag| tag.strip_prefix("model:") == Some(model)))
            && self.tag.as_ref().is_none_or(|wanted| tagged(&|tag| tag == wanted))
            && self.tag_prefix.as_ref().is_none_or(|prefix| tagged(&|tag| tag.starts_with(prefix.as_str())))
    }
}

/// How far purges had come when a generation began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Purges of this process.
    count: u64,
    /// Number of the last one that came from the store.
    pub number: u64,
}

/// The purges that were, newest last, with the store's number where they came from there.
#[derive(Debug, Default)]
pub struct Purges {
    count: u64,
    number: u64,
    last: VecDeque<(u64, Purge)>,
}

impl Purges {
    pub fn mark(&self) -> Mark {
        Mark { count: self.count, number: self.number }
    }

    /// A purge of this process alone.
    pub fn add(&mut self, purge: Purge) {
        self.push(0, purge);
    }

    /// A purge from the store; false when it is known.
    pub fn add_numbered(&mut self, number: u64, purge: Purge) -> bool {
        // A store that lost its memory counts from the beginning; what it has kept of the answers is lost as well.
        let restarted = number == 1 && self.number > 1;
        if number <= self.number && !restarted {
            return false;
        }
        if restarted {
            self.last.iter_mut().for_each(|(number, _)| *number = 0);
        }
        self.number = number;
        self.push(number, purge);
        true
    }

    fn push(&mut self, number: u64, purge: Purge) {
        self.count += 1;
        self.last.push_back((number, purge));
        if self.last.len() > REMEMBERED {
            self.last.pop_front();
        }
    }

    /// Whether an answer of this place, begun at `mark`, has been purged since.
    pub fn purged_since(&self, mark: Mark, place: &Place) -> bool {
        let since = (self.count - mark.count) as usize;
        since > self.last.len() || self.last.iter().rev().take(since).any(|(_, purge)| purge.means(place))
    }

    /// Whether an answer from the store, begun when `number` was the last purge known, has been purged since.
    pub fn purged_after(&self, number: u64, place: &Place) -> bool {
        let oldest = self.last.iter().map(|(number, _)| *number).find(|number| *number > 0);
        // What was forgotten here may have meant it.
        let forgotten = self.last.len() == REMEMBERED && oldest.is_some_and(|oldest| number + 1 < oldest);
        forgotten || self.last.iter().any(|(at, purge)| *at > number && purge.means(place))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn place() -> Place {
        let tags = vec!["model:m".into(), "faq/en".into()];
        Place { key: "k".into(), scope: "acme".into(), tags, ttl: Duration::from_secs(1) }
    }

    #[test]
    fn everything_that_is_named_must_fit() {
        let some = |text: &str| Some(text.to_string());
        let none = Purge::default;
        for (purge, means) in [
            (none(), true),
            (Purge { model: some("m"), ..none() }, true),
            (Purge { model: some("model:m"), ..none() }, false),
            (Purge { tenant: some("acme"), tag: some("faq/en"), ..none() }, true),
            (Purge { tenant: some("globex"), tag: some("faq/en"), ..none() }, false),
            (Purge { tag: some("faq"), ..none() }, false),
            (Purge { tag_prefix: some("faq/"), ..none() }, true),
            (Purge { tag_prefix: some("x"), ..none() }, false),
        ] {
            assert_eq!(purge.means(&place()), means, "{purge:?}");
        }
    }

    #[test]
    fn what_began_before_a_purge_is_purged_and_what_began_after_is_not() {
        let mut purges = Purges::default();
        let before = purges.mark();
        purges.add(Purge { tag: Some("other".into()), ..Purge::default() });
        assert!(!purges.purged_since(before, &place()));
        purges.add(Purge::default());
        assert!(purges.purged_since(before, &place()) && !purges.purged_since(purges.mark(), &place()));
        let old = purges.mark();
        (0..2000).for_each(|_| purges.add(Purge { tag: Some("other".into()), ..Purge::default() }));
        assert!(purges.purged_since(old, &place()), "what happened in between is no longer known");
    }

    #[test]
    fn purges_from_the_store_are_known_by_their_numbers() {
        let mut purges = Purges::default();
        assert!(purges.add_numbered(7, Purge::default()) && !purges.add_numbered(7, Purge::default()));
        assert_eq!(purges.mark().number, 7);
        assert!(purges.purged_after(6, &place()) && !purges.purged_after(7, &place()));
        purges.add(Purge::default());
        assert!(!purges.purged_after(7, &place()), "a purge of another process alone");
        assert!(purges.add_numbered(1, Purge::default()), "the store began anew");
        assert!(purges.purged_after(0, &place()) && !purges.purged_after(1, &place()));
    }
}
