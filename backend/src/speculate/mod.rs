//! Speculative decoding by prompt look-up (Saxena 2023): what followed the last few tokens where they stood before is
//! tried as what follows them now. Every draft is checked against what would have been drawn, so that the answer is the
//! same with and without.

use std::collections::HashMap;

/// Tokens that must have stood together before.
const GRAM: usize = 3;
/// Drafts of one step at most.
const MOST: usize = 8;
/// Tokens for which nothing is drafted after drafts were wrong, at first and at most.
const REST: (usize, usize) = (4, 64);

/// When tokens are drafted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Eagerness {
    /// As long as drafts are right often enough.
    #[default]
    WhenRight,
    /// Wherever the text has stood before.
    Always,
}

/// Drafts for one sequence, as many as have been right of late.
#[derive(Debug, Clone)]
pub struct Lookup {
    eagerness: Eagerness,
    /// Where the token after a gram stood last.
    after: HashMap<[u32; GRAM], usize>,
    /// Tokens whose grams are known.
    known: usize,
    /// Drafts tried next time.
    length: usize,
    /// Tokens until drafts are tried again, and how long the next such rest is.
    rest: usize,
    next_rest: usize,
}

impl Lookup {
    pub fn new(eagerness: Eagerness) -> Self {
        Self { eagerness, after: HashMap::new(), known: 0, length: MOST / 2, rest: 0, next_rest: REST.0 }
    }

    /// What may follow `tokens`, the whole sequence so far; nothing where nothing is known or drafts do not pay.
    pub fn draft<'a>(&mut self, tokens: &'a [u32]) -> &'a [u32] {
        let Some(last) = tokens.last_chunk::<GRAM>() else { return &[] };
        // The gram at the very end is looked up before it is learnt: it would find itself.
        for end in self.known.max(GRAM)..tokens.len() {
            if let Some(gram) = tokens[..end].last_chunk::<GRAM>() {
                self.after.insert(*gram, end);
            }
        }
        self.known = tokens.len();
        if self.rest > 0 {
            return &[];
        }
        let Some(start) = self.after.get(last) else { return &[] };
        &tokens[*start..tokens.len().min(start + self.length)]
    }

    /// Takes in how many of the drafts of a step were right; none for a step without drafts.
    pub fn learn(&mut self, drafts: usize, right: usize) {
        if drafts == 0 {
            self.rest = self.rest.saturating_sub(1);
        } else if right == drafts {
            (self.length, self.next_rest) = ((self.length * 2).min(MOST), REST.0);
        } else if right * 2 >= drafts {
            self.length = right.max(1);
        } else {
            self.length = (self.length / 2).max(1);
            if right == 0 && self.eagerness == Eagerness::WhenRight {
                (self.rest, self.next_rest) = (self.next_rest, (self.next_rest * 2).min(REST.1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_before_is_drafted() {
        let mut lookup = Lookup::new(Eagerness::WhenRight);
        assert!(lookup.draft(&[1, 2]).is_empty());
        assert!(lookup.draft(&[1, 2, 3, 4, 5, 6, 7]).is_empty());
        assert_eq!(lookup.draft(&[1, 2, 3, 4, 5, 6, 7, 1, 2, 3]), [4, 5, 6, 7]);
        assert_eq!(lookup.draft(&[1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 9, 9, 1, 2, 3]), [9, 9, 1, 2], "the latest counts");
        assert_eq!(lookup.draft(&[7; 20])[..], [7]);
    }

    #[test]
    fn it_tries_more_while_it_is_right_and_rests_when_it_is_wrong() {
        let mut lookup = Lookup::new(Eagerness::WhenRight);
        let tokens: Vec<u32> = (0..20).chain(0..3).collect();
        lookup.learn(4, 4);
        assert_eq!(lookup.draft(&tokens).len(), MOST);
        lookup.learn(8, 5);
        assert_eq!(lookup.draft(&tokens).len(), 5);
        lookup.learn(5, 0);
        for _ in 0..REST.0 {
            assert!(lookup.draft(&tokens).is_empty());
            lookup.learn(0, 0);
        }
        assert_eq!(lookup.draft(&tokens).len(), 2);
        lookup.learn(2, 0);
        assert_eq!(lookup.rest, 2 * REST.0, "it rests longer each time");
    }

    #[test]
    fn who_is_always_eager_never_rests() {
        let mut lookup = Lookup::new(Eagerness::Always);
        let tokens: Vec<u32> = (0..20).chain(0..3).collect();
        for _ in 0..5 {
            let drafts = lookup.draft(&tokens).len();
            assert!(drafts > 0);
            lookup.learn(drafts, 0);
        }
        assert_eq!(lookup.draft(&tokens).len(), 1);
    }
}
