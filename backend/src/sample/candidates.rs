//! Which tokens take part in a draw, and with which weight.

use super::Sampling;

/// The candidates and their weights: `exp((logit - highest) / temperature)`, cut by min-p, top-k and top-p in this order.
pub fn candidates<'a>(
    logits: &[f32],
    highest: f32,
    sampling: &Sampling,
    buffer: &'a mut Vec<(f32, u32)>,
) -> &'a [(f32, u32)] {
    let scale = 1.0 / sampling.temperature as f32;
    // The likeliest token weighs 1.
    let least = sampling.min_p as f32;
    buffer.clear();
    let weighed = logits.iter().zip(0..).map(|(&logit, id)| (((logit - highest) * scale).exp(), id));
    buffer.extend(weighed.filter(|(weight, _)| *weight >= least));
    if (1..buffer.len()).contains(&sampling.top_k) {
        buffer.select_nth_unstable_by(sampling.top_k, order);
        buffer.truncate(sampling.top_k);
    }
    if sampling.top_p < 1.0 { nucleus(buffer, sampling.top_p) } else { buffer }
}

fn order(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// The heaviest candidates that together have the share `top_p` of all weight, heaviest first; at least one. Sorts only
/// as many as it needs.
pub fn nucleus(candidates: &mut [(f32, u32)], top_p: f64) -> &[(f32, u32)] {
    let weight = |candidates: &[(f32, u32)]| candidates.iter().map(|(w, _)| f64::from(*w)).sum::<f64>();
    let mass = top_p * weight(candidates);
    let mut head = 32;
    while head < candidates.len() {
        candidates.select_nth_unstable_by(head, order);
        if weight(&candidates[..head]) >= mass {
            break;
        }
        head *= 4;
    }
    let head = head.min(candidates.len());
    candidates[..head].sort_unstable_by(order);
    let mut sum = 0.0;
    for i in 0..head {
        sum += f64::from(candidates[i].0);
        if sum >= mass {
            return &candidates[..=i];
        }
    }
    &candidates[..head]
}
