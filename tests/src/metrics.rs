//! Prometheus' text format, read as far as tests ask.

use std::net::SocketAddr;

use crate::client::Client;

/// The samples of one scrape.
pub struct Metrics(String);

impl Metrics {
    /// Scrapes `/metrics`, whose form is checked.
    pub async fn of(address: SocketAddr) -> Self {
        let answer = Client::new(address).get("/metrics").await;
        assert_eq!(answer.status, 200);
        assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"), "{:?}", answer.headers);
        Self(answer.text().await)
    }

    /// The sum of all samples of this name that have these labels; fails the test when there is none of this name.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let samples: Vec<_> = self.0.lines().filter_map(|line| sample(line, name)).collect();
        assert!(!samples.is_empty(), "no sample of {name} in\n{}", self.0);
        let wanted: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let has_all = |found: &str| wanted.iter().all(|label| found.split(',').any(|f| f == label));
        samples.iter().filter(|(found, _)| has_all(found)).map(|(_, value)| value).sum()
    }

    /// The one sample of this name that has no labels.
    pub fn get(&self, name: &str) -> f64 {
        self.sum(name, &[])
    }
}

/// Labels and value of a line that is a sample of `name`.
fn sample<'a>(line: &'a str, name: &str) -> Option<(&'a str, f64)> {
    let rest = line.strip_prefix(name)?;
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => rest.split_once('}')?,
        None => ("", rest.strip_prefix(' ').map(|_| rest)?),
    };
    Some((labels, value.trim().parse().ok()?))
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn samples_are_found_by_name_and_label() {
        let text = "# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\nab 5\nb 6.5\n";
        let metrics = Metrics(text.into());
        assert_eq!(metrics.sum("a", &[]), 7.0);
        assert_eq!(metrics.sum("a", &[("y", "2")]), 3.0);
        assert_eq!(metrics.sum("a", &[("x", "9")]), 0.0);
        assert_eq!(metrics.get("b"), 6.5);
    }
}
