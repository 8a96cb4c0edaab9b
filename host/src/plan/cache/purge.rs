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

/// A purge of the store's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Point {
    /// The memory of the store that it is in: one that lost its memory counts anew, in another. 0: none was heard of.
    pub epoch: u64,
    /// Counted from 1; 0: before the first.
    pub number: u64,
}

/// How far purges had come when a generation began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Purges of this process.
    count: u64,
    /// The last one that came from the store.
    pub point: Point,
}

/// The purges that were, newest last, with the store's number where they came from its present memory.
#[derive(Debug, Default)]
pub struct Purges {
    count: u64,
    point: Point,
    last: VecDeque<(u64, Purge)>,
}

impl Purges {
    pub fn mark(&self) -> Mark {
        Mark { count: self.count, point: self.point }
    }

    /// A purge of this process alone.
    pub fn add(&mut self, purge: Purge) {
        self.push(0, purge);
    }

    /// The store is in this memory, whose purges are yet to be told.
    pub fn enter(&mut self, epoch: u64) {
        if self.point.epoch != epoch {
            self.point = Point { epoch, number: 0 };
            self.last.iter_mut().for_each(|(number, _)| *number = 0);
        }
    }

    /// A purge from the store; false when it is known.
    pub fn add_numbered(&mut self, point: Point, purge: Purge) -> bool {
        self.enter(point.epoch);
        if point.number <= self.point.number {
            return false;
        }
        self.point = point;
        self.push(point.number, purge);
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

    /// Whether an answer from the store, begun when `point` was the last purge known, has been purged since, or may have
    /// been: what was purged in another memory of the store than the present one is not known.
    pub fn purged_after(&self, point: Point, place: &Place) -> bool {
        let Point { epoch, number } = point;
        if epoch == 0 || epoch != self.point.epoch {
            return true;
        }
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
        let at = |epoch, number| Point { epoch, number };
        let mut purges = Purges::default();
        assert!(purges.add_numbered(at(9, 7), Purge::default()) && !purges.add_numbered(at(9, 7), Purge::default()));
        assert_eq!(purges.mark().point, at(9, 7));
        assert!(purges.purged_after(at(9, 6), &place()) && !purges.purged_after(at(9, 7), &place()));
        purges.add(Purge::default());
        assert!(!purges.purged_after(at(9, 7), &place()), "a purge of another process alone");
    }

    #[test]
    fn a_store_that_lost_its_memory_counts_anew_and_what_was_kept_in_another_is_not_taken() {
        let at = |epoch, number| Point { epoch, number };
        for known in [1, 3] {
            let mut purges = Purges::default();
            assert!(purges.add_numbered(at(9, known), Purge::default()));
            assert!(purges.add_numbered(at(8, 1), Purge::default()), "number 1 of another memory is not known");
            assert!(purges.purged_after(at(8, 0), &place()) && !purges.purged_after(at(8, 1), &place()));
            assert!(purges.purged_after(at(9, known), &place()) && purges.purged_after(at(0, 1), &place()));
            purges.enter(7);
            assert!(purges.purged_after(at(8, 1), &place()) && !purges.purged_after(at(7, 0), &place()));
        }
    }
}
