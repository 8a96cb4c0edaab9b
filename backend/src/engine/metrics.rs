//! What is measured of the engine, under `littoral_node_*`.

use crate::model::Part;
use metrics::{Counter, Gauge, Histogram, Recorder, counter, gauge, histogram, with_local_recorder};

/// Handles on the node's metrics. Times are seconds.
pub struct Metrics {
    /// From the arrival of a request to its first token.
    pub time_to_first_token: Histogram,
    pub inter_token: Histogram,
    /// From the arrival of a request to its slot.
    pub queue: Histogram,
    /// The model's part of a step, until its tokens are drawn.
    pub step: Histogram,
    /// Of it, drawing: on a GPU, with the wait for what is drawn from.
    pub sample: Histogram,
    /// Beside the model: deciding what runs, and (on the other thread) making text and events of the tokens.
    pub schedule: Histogram,
    pub write: Histogram,
    /// From an event's making until the connection takes it.
    pub deliver: Histogram,
    /// The parts of a step, in the order of [`Part::ALL`]; only where they are measured.
    pub parts: [Histogram; Part::ALL.len()],
    /// Sequences in a step.
    pub batch: Histogram,
    pub running: Gauge,
    pub waiting: Gauge,
    pub blocks_used: Gauge,
    /// Blocks without an owner that a prompt may begin with.
    pub blocks_kept: Gauge,
    pub blocks: Gauge,
    /// Prompt tokens that were found in the prefix cache.
    pub prompt_cache_hits: Counter,
    /// Times a sequence lost its slot.
    pub preemptions: Counter,
    /// Tokens that were drafted, and those of them that were right.
    pub drafted: Counter,
    pub accepted: Counter,
    pub prompt_tokens: Counter,
    pub completion_tokens: Counter,
    outcomes: Vec<(&'static str, Counter)>,
}

/// Every way a request can end.
const OUTCOMES: [&str; 10] = [
    "stop",
    "length",
    "tool_calls",
    "cancelled",
    "invalid_request_error",
    "context_length_exceeded",
    "model_not_found",
    "overloaded",
    "deadline_exceeded",
    "internal_error",
];

/// Buckets of the histograms of times: 1 ms to a minute.
pub const SECONDS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Buckets of the batch size.
pub const SEQUENCES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
/// Name of the one histogram that does not hold seconds.
pub const BATCH: &str = "littoral_node_batch_size";

impl Metrics {
    /// Registers everything, so that a counter is there before its first event.
    pub fn new(recorder: &impl Recorder) -> Self {
        with_local_recorder(recorder, || Self {
            time_to_first_token: histogram!("littoral_node_time_to_first_token_seconds"),
            inter_token: histogram!("littoral_node_inter_token_seconds"),
            queue: histogram!("littoral_node_queue_seconds"),
            step: histogram!("littoral_node_step_seconds"),
            sample: histogram!("littoral_node_sample_seconds"),
            schedule: histogram!("littoral_node_schedule_seconds"),
            write: histogram!("littoral_node_write_seconds"),
            deliver: histogram!("littoral_node_deliver_seconds"),
            parts: Part::ALL.map(|part| histogram!("littoral_node_part_seconds", "part" => part.name())),
            batch: histogram!(BATCH),
            running: gauge!("littoral_node_running"),
            waiting: gauge!("littoral_node_queued"),
            blocks_used: gauge!("littoral_node_kv_blocks_used"),
            blocks_kept: gauge!("littoral_node_kv_blocks_kept"),
            blocks: gauge!("littoral_node_kv_blocks"),
            prompt_cache_hits: counter!("littoral_node_prompt_cache_hit_tokens_total"),
            preemptions: counter!("littoral_node_preemptions_total"),
            drafted: counter!("littoral_node_draft_tokens_total"),
            accepted: counter!("littoral_node_accepted_draft_tokens_total"),
            prompt_tokens: counter!("littoral_node_prompt_tokens_total"),
            completion_tokens: counter!("littoral_node_completion_tokens_total"),
            outcomes: OUTCOMES.map(|o| (o, counter!("littoral_node_requests_total", "outcome" => o))).into(),
        })
    }

    /// Counts a request that has ended.
    pub fn outcome(&self, name: &str) {
        match self.outcomes.iter().find(|(outcome, _)| *outcome == name) {
            Some((_, counter)) => counter.increment(1),
            None => tracing::error!(name, "an outcome that has no counter"),
        }
    }
}
