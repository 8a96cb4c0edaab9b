//! Which tokens take part in a draw, and with which weight.

use super::Sampling;

/// Whether top-k or top-p leaves tokens out, of so many.
pub fn cuts(sampling: &Sampling, tokens: usize) -> bool {
    (1..tokens).contains(&sampling.top_k) || sampling.top_p < 1.0
}

/// What top-k and then top-p leave of candidates, each a weight and a token, of which the heaviest weighs 1.
pub fn cut<'a>(candidates: &'a mut Vec<(f32, u32)>, sampling: &Sampling) -> &'a [(f32, u32)] {
    if (1..candidates.len()).contains(&sampling.top_k) {
        candidates.select_nth_unstable_by(sampling.top_k, order);
        candidates.truncate(sampling.top_k);
    }
    if sampling.top_p < 1.0 { nucleus(candidates, sampling.top_p) } else { candidates }
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
