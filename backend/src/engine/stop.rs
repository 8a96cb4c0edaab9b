//! Stop strings, found across the borders of tokens while text streams out.

/// Passes text on up to the first stop string. Text that may be the beginning of one is held back until it is not.
#[derive(Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

impl StopMatcher {
    /// Empty stop strings are ignored.
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops: stops.into_iter().filter(|s| !s.is_empty()).collect(), held: String::new() }
    }

    /// Takes text in and appends what may be sent to `out`. True when a stop string is complete: the text before it
    /// was appended, it and what follows are gone.
    pub fn push(&mut self, text: &str, out: &mut String) -> bool {
        if self.stops.is_empty() {
            out.push_str(text);
            return false;
        }
        self.held.push_str(text);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop)).min() {
            out.push_str(&self.held[..at]);
            self.held.clear();
            return true;
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let free = self.held.len() - keep;
        out.push_str(&self.held[..free]);
        self.held.drain(..free);
        false
    }

    /// Whether a stop string would be complete with this text.
    pub fn would_stop(&self, text: &str) -> bool {
        let text = self.held.clone() + text;
        self.stops.iter().any(|stop| text.contains(stop))
    }

    /// The end of the text: what is held back is no stop string any more.
    pub fn flush(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }
}

/// Length of the longest end of `text` that is a beginning of `stop`, but not all of it, bytes.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    let fits = |&n: &usize| stop.is_char_boundary(n) && text.as_bytes().ends_with(&stop.as_bytes()[..n]);
    (1..=longest).rev().find(fits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is sent after each piece, joined by `|`, and whether it stopped.
    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops.iter().map(|s| s.to_string()).collect());
        let mut sent = Vec::new();
        for piece in pieces {
            let mut out = String::new();
            let stopped = matcher.push(piece, &mut out);
            sent.push(out);
            if stopped {
                return (sent.join("|"), true);
            }
        }
        let mut rest = String::new();
        matcher.flush(&mut rest);
        sent.push(rest);
        (sent.join("|"), false)
    }

    #[test]
    fn text_without_stops_passes_at_once() {
        assert_eq!(run(&[], &["a", "b"]), ("a|b|".into(), false));
        assert_eq!(run(&[""], &["a"]), ("a|".into(), false));
    }

    #[test]
    fn a_stop_is_found_across_pieces_and_nothing_of_it_is_sent() {
        assert_eq!(run(&["END"], &["on", "e E", "N", "D two"]), ("on|e ||".into(), true));
        assert_eq!(run(&["\n\n"], &["a\n", "\nb"]), ("a|".into(), true));
        assert_eq!(run(&["END"], &["END"]), ("".into(), true));
    }

    #[test]
    fn a_beginning_that_comes_to_nothing_is_sent() {
        assert_eq!(run(&["END"], &["E", "Nx", "EN"]), ("|ENx||EN".into(), false));
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]), ("||a|".into(), true));
    }

    #[test]
    fn of_several_stops_the_first_in_the_text_counts() {
        assert_eq!(run(&["yz", "x"], &["w x yz"]), ("w ".into(), true));
        assert_eq!(run(&["abc", "b"], &["ab"]), ("a".into(), true));
    }

    #[test]
    fn characters_are_never_cut() {
        assert_eq!(run(&["éè"], &["é", "a"]), ("|éa|".into(), false));
        // U+00E8 and U+00E9 share their first byte.
        assert_eq!(run(&["è"], &["é"]), ("é|".into(), false));
        assert_eq!(run(&["日本"], &["今日", "本"]), ("今|".into(), true));
    }
}
