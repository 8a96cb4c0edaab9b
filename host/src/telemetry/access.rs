//! Counters about who may enter, and how often.

use std::sync::atomic::Ordering::Relaxed;

use metrics::{Counter, Gauge, Label};
use metrics_exporter_prometheus::PrometheusRecorder;

use super::metrics::Maker;
use crate::audit::Audit;

const LIMITED: &str = "littoral_limited_total";
const STORE_LOST: &str = "littoral_store_lost";
const STORE_AGE: &str = "littoral_store_age_seconds";
const SHARED: &str = "littoral_limits_shared";
const KEYS: &str = "littoral_keys";
const AUDIT_LINES: &str = "littoral_audit_lines_total";
const AUDIT_LOST: &str = "littoral_audit_lost_total";
const AUDIT_FULL: &str = "littoral_audit_full";
const AUDIT_LAG: &str = "littoral_audit_copy_lag_seconds";
const SINK_LAG: &str = "littoral_audit_sink_lag_seconds";
const SINK_LINES: &str = "littoral_audit_sink_lag_lines";
const SINK_FAILURES: &str = "littoral_audit_sink_failures_total";
const KINDS: [&str; 4] = ["requests", "tokens", "concurrency", "budget"];

/// See the module.
pub struct AccessMetrics {
    /// By kind of limit.
    limited: [Counter; KINDS.len()],
    pub store_lost: Gauge,
    pub store_age: Gauge,
    pub shared: Gauge,
    pub keys: Gauge,
    audit_lines: Counter,
    audit_lost: Counter,
    audit_full: Gauge,
    audit_lag: Gauge,
    sink_lag: Gauge,
    sink_lines: Gauge,
    sink_failures: Counter,
}

impl AccessMetrics {
    pub(super) fn new(recorder: &PrometheusRecorder) -> Self {
        let make = Maker(recorder);
        make.describe_counter(LIMITED, "Requests refused by a limit, by its kind");
        make.describe_gauge(STORE_LOST, "1 while the store of limits does not answer");
        make.describe_gauge(STORE_AGE, "Age of the keys and revocations in memory");
        make.describe_gauge(SHARED, "Requests admitted by this edge's share of a lost store, since the start");
        make.describe_gauge(KEYS, "API keys known");
        make.describe_counter(AUDIT_LINES, "Audit lines written");
        make.describe_counter(AUDIT_LOST, "Audit lines that could not be written");
        make.describe_gauge(AUDIT_FULL, "1 while the audit log cannot be written to");
        make.describe_gauge(AUDIT_LAG, "Seconds by which the audit log's second folder lags behind");
        make.describe_gauge(SINK_LAG, "Age of the oldest audit line that was not sent to the syslog receiver");
        make.describe_gauge(SINK_LINES, "Audit lines that were not sent to the syslog receiver");
        make.describe_counter(SINK_FAILURES, "Connections to the syslog receiver that broke or were never made");
        Self {
            limited: KINDS.map(|kind| make.counter(LIMITED, vec![Label::new("kind", kind)])),
            store_lost: make.gauge(STORE_LOST),
            store_age: make.gauge(STORE_AGE),
            shared: make.gauge(SHARED),
            keys: make.gauge(KEYS),
            audit_lines: make.counter(AUDIT_LINES, vec![]),
            audit_lost: make.counter(AUDIT_LOST, vec![]),
            audit_full: make.gauge(AUDIT_FULL),
            audit_lag: make.gauge(AUDIT_LAG),
            sink_lag: make.gauge(SINK_LAG),
            sink_lines: make.gauge(SINK_LINES),
            sink_failures: make.counter(SINK_FAILURES, vec![]),
        }
    }

    /// What the audit log tells of itself.
    pub fn audit(&self, audit: &Audit) {
        self.audit_lines.absolute(audit.lines.load(Relaxed));
        self.audit_lost.absolute(audit.lost.load(Relaxed));
        self.audit_lag.set(audit.copy_lag());
        if let Some((progress, behind)) = audit.syslog() {
            self.sink_lag.set(progress.lag());
            self.sink_lines.set(behind as f64);
            self.sink_failures.absolute(progress.failures.load(Relaxed));
        }
        self.audit_full.set(f64::from(u8::from(audit.is_full())));
    }

    /// A request was refused by a limit of this kind.
    pub fn limited(&self, kind: &str) {
        if let Some(counter) = KINDS.iter().position(|known| *known == kind).and_then(|i| self.limited.get(i)) {
            counter.increment(1);
        }
    }
}
