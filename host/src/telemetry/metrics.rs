//! Counters, gauges and histograms. Handles are made once and kept: a request looks none up by name.

use std::{
    array,
    sync::OnceLock,
    time::{Duration, Instant},
};

use littoral_proto::v1::Usage;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::{AccessMetrics, CacheOutcome, Route};

/// Statuses that have a counter of their own; others count as `other`.
const STATUSES: [u16; 17] = [200, 400, 401, 402, 403, 404, 405, 408, 413, 422, 429, 499, 500, 501, 502, 503, 504];
const OTHER: usize = STATUSES.len();
const COLUMNS: usize = CacheOutcome::ALL.len();
const ROWS: usize = STATUSES.len() + 1;

const DURATION: &str = "littoral_request_duration_seconds";
const TTFT: &str = "littoral_ttft_seconds";
const POOL_WAIT: &str = "littoral_pool_wait_seconds";
const DECIDE: &str = "littoral_guest_decide_seconds";

static METADATA: Metadata<'static> = Metadata::new("littoral", Level::INFO, None);

/// The metrics of one edge.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    /// By route, status and cache outcome; a series exists from its first request on.
    requests: [[[OnceLock<Counter>; COLUMNS]; ROWS]; Route::ALL.len()],
    durations: [Histogram; Route::ALL.len()],
    ttft: Histogram,
    decide: Histogram,
    pool_wait: Histogram,
    prompt_tokens: Counter,
    cached_tokens: Counter,
    completion_tokens: Counter,
    reasoning_tokens: Counter,
    pub open_streams: Gauge,
    pub connections: Gauge,
    pub guest_traps: Counter,
    pub guest_instances: Gauge,
    pub filter_instances: Gauge,
    pub cache_hits: Counter,
    pub cache_misses: Counter,
    pub cache_coalesced: Counter,
    pub cache_bytes: Gauge,
    pub cache_answers: Gauge,
    pub nodes_ready: Gauge,
    pub nodes_ejected: Gauge,
    pub nodes_resting: Gauge,
    pub retries: Counter,
    pub retries_refused: Counter,
    pub hedges: Counter,
    /// Broken streams that another node continued, and those that none could.
    pub resumed: Counter,
    pub lost: Counter,
    pub shed: Counter,
    pub memo_hits: Counter,
    pub discovery_errors: Counter,
    pub store_hits: Counter,
    pub store_undecodable: Counter,
    pub store_errors: Counter,
    pub store_open: Gauge,
    pub access: AccessMetrics,
}

impl Metrics {
    pub fn new() -> anyhow::Result<Self> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Full(DURATION.into()), &SECONDS)?
            .set_buckets_for_metric(Matcher::Full(TTFT.into()), &SECONDS)?
            .set_buckets_for_metric(Matcher::Full(POOL_WAIT.into()), &SECONDS)?
            .set_buckets_for_metric(Matcher::Full(DECIDE.into()), &DECIDE_SECONDS)?
            .build_recorder();
        describe(&recorder);
        let make = Maker(&recorder);
        let tokens = |kind| make.counter("littoral_tokens_total", vec![Label::new("kind", kind)]);
        Ok(Self {
            requests: array::from_fn(|_| array::from_fn(|_| array::from_fn(|_| OnceLock::new()))),
            durations: Route::ALL.map(|r| make.histogram(DURATION, vec![Label::new("route", r.name())])),
            ttft: make.histogram(TTFT, vec![]),
            decide: make.histogram(DECIDE, vec![]),
            pool_wait: make.histogram(POOL_WAIT, vec![]),
            prompt_tokens: tokens("prompt"),
            cached_tokens: tokens("prompt_cached"),
            completion_tokens: tokens("completion"),
            reasoning_tokens: tokens("reasoning"),
            open_streams: make.gauge("littoral_open_streams"),
            connections: make.gauge("littoral_connections"),
            guest_traps: make.counter("littoral_guest_traps_total", vec![]),
            guest_instances: make.gauge("littoral_guest_instances"),
            filter_instances: make.gauge("littoral_filter_instances"),
            cache_hits: make.counter("littoral_cache_hits_total", vec![]),
            cache_misses: make.counter("littoral_cache_misses_total", vec![]),
            cache_coalesced: make.counter("littoral_cache_coalesced_total", vec![]),
            cache_bytes: make.gauge("littoral_cache_bytes"),
            cache_answers: make.gauge("littoral_cache_answers"),
            nodes_ready: make.gauge("littoral_nodes_ready"),
            nodes_ejected: make.gauge("littoral_nodes_ejected"),
            nodes_resting: make.gauge("littoral_nodes_resting"),
            retries: make.counter("littoral_retries_total", vec![Label::new("outcome", "made")]),
            retries_refused: make.counter("littoral_retries_total", vec![Label::new("outcome", "over_budget")]),
            hedges: make.counter("littoral_hedges_total", vec![]),
            resumed: make.counter("littoral_failovers_total", vec![Label::new("outcome", "resumed")]),
            lost: make.counter("littoral_failovers_total", vec![Label::new("outcome", "lost")]),
            memo_hits: make.counter("littoral_memo_hits_total", vec![]),
            discovery_errors: make.counter("littoral_discovery_errors_total", vec![]),
            store_hits: make.counter("littoral_answers_hits_total", vec![]),
            store_undecodable: make.counter("littoral_answers_undecodable_total", vec![]),
            store_errors: make.counter("littoral_answers_errors_total", vec![]),
            store_open: make.gauge("littoral_answers_left_alone"),
            shed: make.counter("littoral_shed_total", vec![]),
            access: AccessMetrics::new(&recorder),
            handle: recorder.handle(),
            recorder,
        })
    }

    /// A request ended.
    pub fn request(&self, route: Route, status: u16, cache: CacheOutcome, took: Duration) {
        let row = STATUSES.iter().position(|s| *s == status).unwrap_or(OTHER);
        let counter = self.requests[route as usize][row][cache as usize].get_or_init(|| {
            let status = STATUSES.get(row).map_or("other".to_string(), u16::to_string);
            let labels = vec![
                Label::new("route", route.name()),
                Label::new("status", status),
                Label::new("cache", cache.name()),
            ];
            Maker(&self.recorder).counter("littoral_requests_total", labels)
        });
        counter.increment(1);
        self.durations[route as usize].record(took);
    }

    /// The first token of a generation came.
    pub fn first_token(&self, after: Duration) {
        self.ttft.record(after);
    }

    /// A guest decided.
    pub fn decided(&self, since: Instant) {
        self.decide.record(since.elapsed());
    }

    /// A request waited so long for its place among the streams of an HTTP node.
    pub fn pool_wait(&self, took: Duration) {
        self.pool_wait.record(took);
    }

    /// A generation was settled.
    pub fn tokens(&self, usage: &Usage) {
        self.prompt_tokens.increment(usage.prompt_tokens.into());
        self.cached_tokens.increment(usage.prompt_cache_hit_tokens.into());
        self.completion_tokens.increment(usage.completion_tokens.into());
        self.reasoning_tokens.increment(usage.reasoning_tokens.into());
    }

    /// The exposition text.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Moves samples into buckets; memory grows while nobody calls this or [`Metrics::render`].
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

/// From a cache hit to a long generation.
const SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];
/// From a head-only decision to the CPU bound of a large body.
const DECIDE_SECONDS: [f64; 14] =
    [5e-6, 1e-5, 1.5e-5, 2e-5, 2.5e-5, 3.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 5e-3, 2e-2, 1e-1];

pub(super) struct Maker<'a>(pub &'a PrometheusRecorder);

impl Maker<'_> {
    pub fn describe_counter(&self, name: &'static str, text: &'static str) {
        self.0.describe_counter(KeyName::from_const_str(name), None, text.into());
    }

    pub fn describe_gauge(&self, name: &'static str, text: &'static str) {
        self.0.describe_gauge(KeyName::from_const_str(name), None, text.into());
    }

    pub fn counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        self.0.register_counter(&Key::from_parts(name, labels), &METADATA)
    }

    pub fn gauge(&self, name: &'static str) -> Gauge {
        self.0.register_gauge(&Key::from_static_name(name), &METADATA)
    }

    fn histogram(&self, name: &'static str, labels: Vec<Label>) -> Histogram {
        self.0.register_histogram(&Key::from_parts(name, labels), &METADATA)
    }
}

fn describe(recorder: &PrometheusRecorder) {
    let counters = [
        ("littoral_requests_total", "Requests answered, by route, status and cache outcome"),
        ("littoral_tokens_total", "Tokens that nodes reported, by kind; replayed answers count none"),
        ("littoral_guest_traps_total", "Decisions that a guest did not finish"),
        ("littoral_cache_hits_total", "Look-ups that found an answer"),
        ("littoral_cache_misses_total", "Look-ups that found none"),
        ("littoral_cache_coalesced_total", "Look-ups that joined another request's generation"),
        ("littoral_retries_total", "Further nodes asked before a first event, and those that the budget did not allow"),
        ("littoral_hedges_total", "Second nodes asked because the first was slow"),
        ("littoral_failovers_total", "Streams that lost their node, by what became of them"),
        ("littoral_memo_hits_total", "Decisions that were remembered and not made anew"),
        ("littoral_discovery_errors_total", "Times that the file of nodes or DNS gave no answer"),
        ("littoral_answers_hits_total", "Answers that came from the store edges share"),
        ("littoral_answers_undecodable_total", "Entries of the store that were no answers"),
        (
            "littoral_answers_errors_total",
            "Commands that the store did not answer, or that were not sent while it is left alone",
        ),
        ("littoral_shed_total", "Requests turned away because every node's queue was full"),
    ];
    for (name, text) in counters {
        recorder.describe_counter(KeyName::from_const_str(name), None, text.into());
    }
    let gauges = [
        ("littoral_open_streams", "Streamed answers being sent"),
        ("littoral_connections", "Client connections open"),
        ("littoral_guest_instances", "Policy instances alive"),
        ("littoral_filter_instances", "Filter instances alive"),
        ("littoral_cache_bytes", "Memory the kept answers take"),
        ("littoral_cache_answers", "Answers kept"),
        ("littoral_nodes_ready", "Nodes that take requests"),
        ("littoral_answers_left_alone", "1 while the store is left alone after failures"),
        ("littoral_nodes_ejected", "Ready nodes that are left alone after failures"),
        ("littoral_nodes_resting", "Ready nodes that asked to be left alone for a while"),
    ];
    for (name, text) in gauges {
        recorder.describe_gauge(KeyName::from_const_str(name), None, text.into());
    }
    let histograms = [
        (DURATION, "From the head of a request to the end of its answer"),
        (TTFT, "From the head of a request to the first token a node sent"),
        (POOL_WAIT, "Wait of a request for its place among the streams of an HTTP node"),
        (DECIDE, "One decision of the policy guest"),
    ];
    for (name, text) in histograms {
        recorder.describe_histogram(KeyName::from_const_str(name), Some(Unit::Seconds), text.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_in_the_text() {
        let metrics = Metrics::new().unwrap();
        metrics.request(Route::Chat, 200, CacheOutcome::Hit, Duration::from_millis(3));
        metrics.request(Route::Chat, 200, CacheOutcome::Hit, Duration::from_millis(3));
        metrics.request(Route::Other, 418, CacheOutcome::None, Duration::from_millis(3));
        metrics.tokens(&Usage { prompt_tokens: 5, completion_tokens: 7, ..Usage::default() });
        let text = metrics.render();
        for line in [
            r#"littoral_requests_total{route="chat",status="200",cache="hit"} 2"#,
            r#"littoral_requests_total{route="other",status="other",cache="none"} 1"#,
            r#"littoral_request_duration_seconds_count{route="chat"} 2"#,
            r#"littoral_tokens_total{kind="completion"} 7"#,
            "littoral_open_streams 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains(r#"status="503""#));
    }
}
