//! What every layer of one step needs to know of its rows.

use std::{ops::Range, sync::Arc};

use burn::tensor::{Device, Int, Tensor};

use super::{
    Segment, cache,
    ops::Span,
    rope::{Rope, Rotation},
};

/// The rows of one step: those of all segments, one after the other.
pub struct Batch {
    pub device: Device,
    /// Which rows belong to which sequence.
    pub spans: Arc<Vec<Span>>,
    /// Token ids, `[rows]`.
    pub ids: Tensor<1, Int>,
    /// Where each row lies in planes with a row per token, `[rows]`.
    pub slots: Tensor<1, Int>,
    /// At the rows' positions, in the order of the model's rotary embeddings.
    pub rotations: Vec<Rotation>,
}

impl Batch {
    /// The segments have been checked.
    pub fn of(segments: &[Segment], ropes: &[Rope], device: &Device) -> Self {
        let spans = cache::spans(segments);
        let ids = segments.iter().flat_map(|segment| segment.tokens).map(|id| id.cast_signed()).collect();
        let slots = spans.iter().flat_map(|span| cache::slots(span, span.start..span.len())).collect();
        let positions: Vec<usize> = spans.iter().flat_map(|span| span.start..span.len()).collect();
        Self {
            device: device.clone(),
            ids: cache::indices(ids, device),
            slots: cache::indices(slots, device),
            rotations: ropes.iter().map(|rope| rope.at(positions.iter().copied(), device)).collect(),
            spans: Arc::new(spans),
        }
    }

    /// Runs of neighbouring spans of which `is` says the same, with what it says.
    pub fn runs(&self, is: impl Fn(&Span) -> bool) -> Vec<(bool, Range<usize>)> {
        let mut runs: Vec<(bool, Range<usize>)> = Vec::new();
        for (i, span) in self.spans.iter().enumerate() {
            match runs.last_mut() {
                Some((same, run)) if *same == is(span) => run.end = i + 1,
                _ => runs.push((is(span), i..i + 1)),
            }
        }
        runs
    }

    /// Some neighbouring spans with their rows counted from the first of them, and the range of those rows.
    pub fn part(&self, run: Range<usize>) -> (Arc<Vec<Span>>, Range<usize>) {
        let first = self.spans[run.start].row;
        let last = &self.spans[run.end - 1];
        let rows = first..last.row + last.rows;
        if run == (0..self.spans.len()) {
            return (self.spans.clone(), rows);
        }
        let moved = self.spans[run].iter().map(|span| Span { row: span.row - first, ..span.clone() });
        (Arc::new(moved.collect()), rows)
    }
}
