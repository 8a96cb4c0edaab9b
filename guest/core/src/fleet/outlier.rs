//! Which nodes fail so much more than the others that they are taken out, though they fail no five times in a row.

/// What one node answered within the last window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    pub succeeded: u32,
    pub failed: u32,
}

/// Fewer answers than this say nothing.
const MIN_ANSWERS: u32 = 10;
/// Share of failures from which a node can be an outlier.
const MIN_SHARE: f64 = 0.3;
/// An outlier fails this many times as often as the rest of the fleet.
const TIMES: f64 = 2.0;

impl Window {
    fn answers(&self) -> u32 {
        self.succeeded + self.failed
    }

    fn and(self, other: Self) -> Self {
        Self { succeeded: self.succeeded + other.succeeded, failed: self.failed + other.failed }
    }

    fn share(&self) -> f64 {
        f64::from(self.failed) / f64::from(self.answers().max(1))
    }
}

/// The nodes to eject, worst first, at most half of those that are in. Nobody is ejected for what happens everywhere.
pub fn outliers(nodes: &[Window]) -> Vec<usize> {
    let mut left: Vec<usize> = (0..nodes.len()).collect();
    left.sort_by(|&a, &b| nodes[b].share().total_cmp(&nodes[a].share()));
    let mut found = Vec::new();
    // The worst is measured against the others, then the next worst against those that are left: one bad node does not
    // hide another.
    while found.len() < nodes.len() / 2 {
        let rest = left[1..].iter().fold(Window::default(), |sum, &i| sum.and(nodes[i]));
        let worst = nodes[left[0]];
        let telling = worst.answers() >= MIN_ANSWERS && rest.answers() > 0;
        if !telling || worst.share() < MIN_SHARE.max(TIMES * rest.share()) {
            break;
        }
        found.push(left.remove(0));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows<const N: usize>(pairs: [(u32, u32); N]) -> [Window; N] {
        pairs.map(|(succeeded, failed)| Window { succeeded, failed })
    }

    #[test]
    fn the_one_that_fails_more_than_the_others_is_found() {
        assert_eq!(outliers(&windows([(100, 0), (60, 40), (99, 1)])), [1]);
        assert_eq!(outliers(&windows([(20, 80), (60, 40), (100, 0), (100, 1)])), [0, 1]);
    }

    #[test]
    fn what_happens_everywhere_happens_to_many_or_is_rare_ejects_nobody() {
        assert!(outliers(&windows([(50, 50), (50, 50), (55, 45)])).is_empty());
        assert!(outliers(&windows([(5, 4), (100, 0)])).is_empty(), "too few answers");
        assert!(outliers(&windows([(90, 10), (100, 0)])).is_empty(), "too few failures");
        assert!(outliers(&windows([(0, 100)])).is_empty(), "the only one stays");
        assert!(outliers(&[]).is_empty());
        assert!(outliers(&windows([(0, 100), (0, 100), (100, 0), (100, 0)])).len() <= 2);
    }
}
