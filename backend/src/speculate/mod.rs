//! Speculative decoding by prompt look-up (Saxena 2023): what followed the last few tokens where they stood before is
//! tried as what follows them now. Every draft is checked against what would have been drawn, so that the answer is the
//! same with and without.

use std::collections::HashMap;

/// Tokens that must have stood together before.
const GRAM: usize = 3;
/// Places where a gram stood that are compared, the latest first.
const PLACES: usize = 16;
/// Tokens that, the same before both, make it likely that a copy goes on for long.
const SURE: usize = 12;
/// Tokens that, the same before both, make it a copy: it ends a rest, and goes on behind a changed token.
const COPY: usize = 5;
/// Tokens in a row that may be changed in a copy, and drafts of the next step when one was.
const CHANGED: usize = 2;
/// Drafts of one step at most: with the token before them they are eight rows, which the CPU's kernels take at once.
const MOST: usize = 7;
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
    /// Of each place, where the token after the same gram stood before; 0 where the gram was new.
    before: Vec<usize>,
    /// How far behind the end of the text lies what it copies.
    copied: Option<usize>,
    /// Whether the last drafts were tried behind a changed token, where nothing says yet that the copy goes on.
    guessed: bool,
    /// Drafts tried next time.
    length: usize,
    /// Tokens until drafts are tried again, and how long the next such rest is.
    rest: usize,
    next_rest: usize,
}

impl Lookup {
    pub fn new(eagerness: Eagerness) -> Self {
        Self {
            eagerness,
            after: HashMap::new(),
            before: Vec::new(),
            copied: None,
            guessed: false,
            length: MOST.div_ceil(2),
            rest: 0,
            next_rest: REST.0,
        }
    }

    /// What may follow `tokens`, the whole sequence so far; nothing where nothing is known or drafts do not pay.
    pub fn draft(&mut self, tokens: &[u32]) -> Vec<u32> {
        let Some(last) = tokens.last_chunk::<GRAM>() else { return Vec::new() };
        // The gram at the very end is looked up before it is learnt: it would find itself.
        self.before.resize(self.before.len().max(GRAM), 0);
        for end in self.before.len()..tokens.len() {
            let earlier = tokens[..end].last_chunk().and_then(|gram| self.after.insert(*gram, end));
            self.before.push(earlier.unwrap_or_default());
        }
        let found = self.after.get(last).map(|latest| self.longest(tokens, *latest));
        if let Some((at, COPY..)) = found {
            self.copied = Some(tokens.len() - at);
        }
        let source = self.copied.map(|distance| tokens.len() - distance);
        let changed = source.map_or(0, |at| backwards(tokens, at).take_while(|(there, here)| there != here).count());
        self.guessed = (1..=CHANGED).contains(&changed);
        if changed > CHANGED {
            self.copied = None;
        }
        let (start, length) = match (found, source) {
            (Some((at, SURE..)), _) => (at, MOST),
            (_, Some(at)) if self.guessed => (at, CHANGED),
            (_, Some(at)) if changed == 0 => (at, self.length),
            (Some((at, _)), _) if self.rest == 0 => (at, self.length),
            _ => return Vec::new(),
        };
        // Beyond its end the text goes on as it is drafted: what repeats itself has a period.
        let mut drafts = Vec::with_capacity(length);
        for at in start..start + length {
            let next = tokens.get(at).or_else(|| drafts.get(at - tokens.len())).copied();
            drafts.extend(next);
        }
        drafts
    }

    /// Of what is copied and the latest places where the last gram stood, the one that has most before it in common with
    /// the end of the text, the first of equals: where the token after it stood, and how many tokens are the same,
    /// [`SURE`] at most.
    fn longest(&self, tokens: &[u32], latest: usize) -> (usize, usize) {
        let places = std::iter::successors(Some(latest), |at| self.before.get(*at).copied().filter(|at| *at > 0));
        let copied = self.copied.map(|distance| tokens.len() - distance);
        let mut best = (latest, 0);
        for at in copied.into_iter().chain(places.take(PLACES)) {
            let same = backwards(tokens, at).take_while(|(there, here)| there == here).count();
            if same > best.1 {
                best = (at, same);
            }
        }
        best
    }

    /// Takes in how many of the drafts of a step were right; none for a step without drafts.
    pub fn learn(&mut self, drafts: usize, right: usize) {
        if self.guessed {
            return;
        }
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

/// The last [`SURE`] tokens before a place and before the end of the text, pair by pair.
fn backwards(tokens: &[u32], at: usize) -> impl Iterator<Item = (&u32, &u32)> {
    tokens[..at].iter().rev().zip(tokens.iter().rev()).take(SURE)
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
    }

    #[test]
    fn of_several_places_the_one_with_most_in_common_is_gone_on_from() {
        let mut lookup = Lookup::new(Eagerness::WhenRight);
        // 1 2 3 is followed by 4 after 8 and by 5 after 9.
        assert_eq!(lookup.draft(&[8, 1, 2, 3, 4, 9, 1, 2, 3, 5, 8, 1, 2, 3])[0], 4);
        let mut lookup = Lookup::new(Eagerness::WhenRight);
        assert_eq!(
            lookup.draft(&[8, 1, 2, 3, 4, 9, 1, 2, 3, 5, 7, 1, 2, 3])[0],
            5,
            "the latest, where all are as good"
        );
    }

    #[test]
    fn what_repeats_itself_is_drafted_beyond_what_there_is() {
        let mut lookup = Lookup::new(Eagerness::WhenRight);
        assert_eq!(lookup.draft(&[7; 20]), [7; MOST]);
        let text: Vec<u32> = (0..20).map(|i| i % 5).collect();
        assert_eq!(Lookup::new(Eagerness::WhenRight).draft(&text), [0, 1, 2, 3, 4, 0, 1]);
    }

    #[test]
    fn a_copy_ends_a_rest_and_a_long_one_is_drafted_in_full() {
        let mut lookup = Lookup::new(Eagerness::WhenRight);
        let text: Vec<u32> = (0..40).collect();
        let copied = |count: usize| [&text[..], &text[..count]].concat();
        lookup.learn(4, 0);
        assert!(lookup.draft(&copied(COPY - 1)).is_empty(), "it rests");
        assert_eq!(lookup.draft(&copied(COPY)).len(), 2);
        assert_eq!(lookup.draft(&copied(SURE)).len(), MOST);
    }

    #[test]
    fn a_copy_goes_on_behind_a_changed_token_and_ends_where_several_are() {
        let text: Vec<u32> = (0..40).collect();
        let copy = |changed: usize| -> Vec<u32> {
            let mut lookup = Lookup::new(Eagerness::WhenRight);
            let before = [&text[..], &text[..COPY]].concat();
            assert!(!lookup.draft(&before).is_empty());
            let after: Vec<u32> = (0..changed as u32).map(|i| 90 + i).collect();
            lookup.draft(&[before, after].concat())
        };
        let behind = |changed: usize| text[COPY + changed..][..CHANGED].to_vec();
        assert_eq!(copy(1), behind(1));
        assert_eq!(copy(CHANGED), behind(CHANGED));
        assert!(copy(CHANGED + 1).is_empty());
    }

    #[test]
    fn what_a_guess_was_worth_says_nothing_of_the_next_drafts() {
        let mut lookup = Lookup::new(Eagerness::WhenRight);
        let mut tokens: Vec<u32> = (0..40).chain(0..COPY as u32).collect();
        let length = lookup.draft(&tokens).len();
        lookup.learn(length, length);
        let length = lookup.length;
        tokens.push(90);
        let guess = lookup.draft(&tokens).len();
        lookup.learn(guess, 0);
        assert_eq!((lookup.length, lookup.rest), (length, 0));
    }

    #[test]
    fn of_places_that_are_as_good_the_one_that_is_copied_is_gone_on_from() {
        let mut lookup = Lookup::new(Eagerness::WhenRight);
        let long: Vec<u32> = (0..SURE as u32).collect();
        // The same long text is followed by 50 and, later, by 60; the copy is of the first.
        let text = [&[70, 71, 72, 73, 74][..], &long, &[50, 75, 76], &long, &[60, 77], &[70, 71, 72, 73, 74]].concat();
        assert_eq!(lookup.draft(&text)[0], long[0]);
        assert_eq!(lookup.draft(&[&text[..], &long].concat())[0], 50);
    }

    #[test]
    fn it_tries_more_while_it_is_right_and_rests_when_it_is_wrong() {
        let mut lookup = Lookup::new(Eagerness::WhenRight);
        let tokens: Vec<u32> = (0..20).chain(0..3).collect();
        lookup.learn(4, 4);
        assert_eq!(lookup.draft(&tokens).len(), MOST);
        lookup.learn(MOST, 5);
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
