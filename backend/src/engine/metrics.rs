//! What is measured of the engine, under `littoral_node_*`.

use littoral_api::error::code;
use littoral_proto::finish;
use metrics::{
    Counter, Gauge, Histogram, Recorder, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram, with_local_recorder,
};

use super::End;
use crate::model::Part;

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
const OUTCOMES: [&str; 11] = [
    finish::STOP,
    finish::LENGTH,
    finish::TOOL_CALLS,
    End::Cancelled.name(),
    code::INVALID_REQUEST,
    code::CONTEXT_LENGTH_EXCEEDED,
    code::MODEL_NOT_FOUND,
    code::OVERLOADED,
    code::CANNOT_RESUME,
    code::DEADLINE_EXCEEDED,
    code::INTERNAL,
];

/// Buckets of the histograms of times: 1 ms to a minute.
pub const SECONDS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Buckets of the batch size.
pub const SEQUENCES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
/// Name of the one histogram that does not hold seconds.
pub const BATCH: &str = "littoral_node_batch_size";
const PART: &str = "littoral_node_part_seconds";
const REQUESTS: &str = "littoral_node_requests_total";

impl Metrics {
    /// Registers everything, so that a counter is there before its first event.
    pub fn new(recorder: &impl Recorder) -> Self {
        with_local_recorder(recorder, || Self {
            time_to_first_token: time("time_to_first_token", "From the arrival of a request to its first token"),
            inter_token: time("inter_token", "Between two tokens of an answer"),
            queue: time("queue", "From the arrival of a request to its slot"),
            step: time("step", "The model's part of a step, until its tokens are drawn"),
            sample: time("sample", "Of a step, drawing its tokens"),
            schedule: time("schedule", "Deciding what a step runs"),
            write: time("write", "Making text and events of a step's tokens, beside the next step"),
            deliver: time("deliver", "From an event's making until the connection takes it"),
            parts: {
                describe_histogram!(PART, Unit::Seconds, "The parts of a step, where they are measured");
                Part::ALL.map(|part| histogram!(PART, "part" => part.name()))
            },
            batch: {
                describe_histogram!(BATCH, Unit::Count, "Sequences in a step");
                histogram!(BATCH)
            },
            running: level("running", "Sequences that have a slot"),
            waiting: level("queued", "Sequences that wait for a slot"),
            blocks_used: level("kv_blocks_used", "Blocks of the KV cache that sequences own"),
            blocks_kept: level("kv_blocks_kept", "Blocks without an owner that a prompt may begin with"),
            blocks: level("kv_blocks", "Blocks of the KV cache"),
            prompt_cache_hits: count("prompt_cache_hit_tokens", "Prompt tokens found in the prefix cache"),
            preemptions: count("preemptions", "Times a sequence lost its slot"),
            drafted: count("draft_tokens", "Tokens that were drafted"),
            accepted: count("accepted_draft_tokens", "Drafted tokens that were right"),
            prompt_tokens: count("prompt_tokens", "Tokens of prompts"),
            completion_tokens: count("completion_tokens", "Tokens of answers"),
            outcomes: {
                describe_counter!(REQUESTS, "Requests that have ended, by how");
                OUTCOMES.map(|outcome| (outcome, counter!(REQUESTS, "outcome" => outcome))).into()
            },
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

fn time(name: &str, what: &'static str) -> Histogram {
    let name = format!("littoral_node_{name}_seconds");
    describe_histogram!(name.clone(), Unit::Seconds, what);
    histogram!(name)
}

fn level(name: &str, what: &'static str) -> Gauge {
    let name = format!("littoral_node_{name}");
    describe_gauge!(name.clone(), what);
    gauge!(name)
}

fn count(name: &str, what: &'static str) -> Counter {
    let name = format!("littoral_node_{name}_total");
    describe_counter!(name.clone(), what);
    counter!(name)
}
