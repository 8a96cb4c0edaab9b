//! Draws where the logits are: only tokens, and the log probabilities that were asked for, leave the device.

mod kernels;

use burn::tensor::{DType, Shape};
use burn_cubecl::{ops::numeric::empty_device_contiguous_dtype, tensor::CubeTensor};

use super::{cubes, empty, flat, fold::Units, per_unit, upload};
use crate::sample::{Draw, words};
use kernels::{ALL, BORDERS, CHANGE, LINE};

/// Units of a cube, at most, if the memory that they share has room: a cube goes through a row of logits again and again.
const UNITS: usize = 1024;

/// See [`Kernels::draw`](super::super::Kernels::draw).
pub fn draw(logits: CubeTensor, draws: &[Draw]) -> CubeTensor {
    let logits = flat(logits);
    let [rows, vocab] = logits.meta.shape().dims();
    assert!(draws.iter().all(|draw| draw.row < rows), "a draw from a row beyond the {rows} of the step");
    let width = words::width(draws, vocab);
    let shape = Shape::new([draws.len(), width]);
    let out = empty_device_contiguous_dtype(logits.client.clone(), logits.device.clone(), shape, DType::U32);
    if draws.is_empty() {
        return out;
    }
    let moved = draws.iter().any(|draw| draw.mask.is_some() || !draw.changes.is_empty());
    let mut masks = 0;
    let lines: Vec<u32> =
        draws.iter().zip(0..).flat_map(|(draw, at)| line(draw, moved.then_some(at), &mut masks)).collect();
    let lines = upload(&logits, &lines);
    let drawn_from = if moved { self::moved(&logits, draws, &lines) } else { logits.clone() };
    let client = &logits.client;
    let room = client.properties().hardware.max_shared_memory_size / size_of::<f32>();
    let fits = |at_most: &usize| Units::new(client, vocab, *at_most).places(BORDERS) <= room;
    let at_most = std::iter::successors(Some(UNITS), |units| (*units > 32).then(|| units / 2)).find(fits);
    let units = Units::new(client, vocab, at_most.unwrap_or(32));
    // SAFETY: the lines name rows of their tensors, and `out` has `width` words for each of them.
    unsafe {
        kernels::draw::launch_unchecked(
            client,
            cubes(client, draws.len()),
            units.cube_dim(),
            drawn_from.into_buffer_arg(),
            lines.clone().into_buffer_arg(),
            out.clone().into_buffer_arg(),
            draws.len(),
            vocab,
            width,
            units,
        );
    }
    if width > 1 {
        // SAFETY: as above.
        unsafe {
            kernels::likeliest::launch_unchecked(
                client,
                cubes(client, draws.len()),
                units.cube_dim(),
                logits.clone().into_buffer_arg(),
                lines.into_buffer_arg(),
                out.clone().into_buffer_arg(),
                draws.len(),
                vocab,
                width,
                units,
            );
        }
    }
    out
}

/// What the kernels read of a draw, which is from row `moved` of the changed logits if there are any.
fn line(draw: &Draw, moved: Option<u32>, masks: &mut u32) -> [u32; LINE] {
    let sampling = draw.sampling;
    let cut = |wanted: bool, at: f32| if wanted && !draw.greedy() { at } else { ALL };
    let count = cut(sampling.top_k > 0, sampling.top_k as f32);
    let share = cut(sampling.top_p < 1.0, sampling.top_p as f32);
    let scale = if draw.greedy() { 0.0 } else { 1.0 / sampling.temperature as f32 };
    let mask = draw.mask.map_or(0, |_| {
        *masks += 1;
        *masks
    });
    [
        draw.row as u32,
        moved.unwrap_or(draw.row as u32),
        draw.key as u32,
        (draw.key >> 32) as u32,
        scale.to_bits(),
        (sampling.min_p as f32).to_bits(),
        count.to_bits(),
        share.to_bits(),
        sampling.logprobs.map_or(0, |top| top as u32 + 1),
        mask,
    ]
}

/// The rows of logits with masks and changes, a row a draw.
fn moved(logits: &CubeTensor, draws: &[Draw], lines: &CubeTensor) -> CubeTensor {
    let [_, vocab] = logits.meta.shape().dims();
    let client = &logits.client;
    let moved = empty(logits, [draws.len(), vocab]);
    let length = vocab.div_ceil(32);
    let mut masks: Vec<u32> = Vec::new();
    for mask in draws.iter().filter_map(|draw| draw.mask) {
        masks.extend(mask.iter().copied().chain(std::iter::repeat(0)).take(length));
    }
    // No buffer is empty.
    masks.resize(masks.len().max(1), 0);
    let (count, dim) = per_unit(client, draws.len() * vocab);
    // SAFETY: the lines name rows of the logits and masks, and `moved` has a row for each of them.
    unsafe {
        kernels::mask::launch_unchecked(
            client,
            count,
            dim,
            logits.clone().into_buffer_arg(),
            lines.clone().into_buffer_arg(),
            upload(logits, &masks).into_buffer_arg(),
            moved.clone().into_buffer_arg(),
            vocab,
            length,
        );
    }
    let changes: Vec<u32> = draws
        .iter()
        .zip(0..)
        .flat_map(|(draw, at)| draw.changes.iter().map(move |change| (at, change)))
        .filter(|(_, change)| (change.id as usize) < vocab)
        .flat_map(|(at, change)| {
            let [penalty, minus, plus] = [change.penalty, change.minus, change.plus].map(f32::to_bits);
            [at, change.id, penalty, minus, plus]
        })
        .collect();
    let work = changes.len() / CHANGE;
    if work > 0 {
        let (count, dim) = per_unit(client, work);
        // SAFETY: the changes name rows of `moved` and tokens of the vocabulary, none of them twice.
        unsafe {
            kernels::change::launch_unchecked(
                client,
                count,
                dim,
                moved.clone().into_buffer_arg(),
                upload(logits, &changes).into_buffer_arg(),
                work,
                vocab,
            );
        }
    }
    moved
}
