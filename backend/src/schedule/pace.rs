//! How many prompt rows a step may take on while others write, so that nobody sees the stream stand still.
//!
//! From the times of past steps it estimates what a step without prompts costs and what one prompt row adds, and allows
//! as many rows as keep a step within [`STRETCH`] of the former.

/// A step with prompt rows may take so many times the time of one without.
pub const STRETCH: f64 = 2.0;
/// Rows allowed at least: prompts always advance.
const LEAST: usize = 8;
/// Weight of the newest step in the averages.
const NEWEST: f64 = 0.2;

/// What past steps cost, seconds.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    /// A step that only generates.
    writing: Option<f64>,
    /// One prompt row.
    row: Option<f64>,
}

impl Pace {
    /// Takes in a step of `writing` rows that generated and `reading` prompt rows.
    pub fn observe(&mut self, writing: usize, reading: usize, seconds: f64) {
        match (writing, reading) {
            (0, 0) => {}
            (_, 0) => average(&mut self.writing, seconds),
            (0, n) => average(&mut self.row, seconds / n as f64),
            (_, n) => {
                if let Some(base) = self.writing {
                    average(&mut self.row, (seconds - base).max(0.0) / n as f64);
                }
            }
        }
    }

    /// Prompt rows for a step in which others generate, of `most` at most.
    pub fn prompt_rows(&self, most: usize) -> usize {
        let (Some(writing), Some(row)) = (self.writing, self.row) else { return most.min(LEAST * 4) };
        let allowed = (STRETCH - 1.0) * writing / row.max(1e-9);
        (allowed as usize).clamp(LEAST.min(most), most)
    }
}

fn average(value: &mut Option<f64>, newest: f64) {
    *value = Some(value.map_or(newest, |old| old + NEWEST * (newest - old)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_fill_the_stretch_and_no_more() {
        let mut pace = Pace::default();
        assert_eq!(pace.prompt_rows(128), 32);
        for _ in 0..50 {
            pace.observe(8, 0, 0.050);
            pace.observe(0, 100, 0.200);
        }
        // A row costs 2 ms: 50 ms hold 25.
        assert_eq!(pace.prompt_rows(128), 25);
        assert_eq!(pace.prompt_rows(10), 10);
    }

    #[test]
    fn it_follows_a_machine_that_gets_slower_or_faster() {
        let mut pace = Pace::default();
        for (row, expected) in [(0.001, 50), (0.010, 8), (0.0001, 128)] {
            for _ in 0..100 {
                pace.observe(4, 0, 0.050);
                pace.observe(4, 10, 0.050 + 10.0 * row);
            }
            assert!(pace.prompt_rows(128).abs_diff(expected) <= 1, "{row}: {}", pace.prompt_rows(128));
        }
    }
}
