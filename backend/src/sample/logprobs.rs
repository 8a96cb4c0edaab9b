//! Log probabilities of tokens, of the model's own distribution: before temperature, penalties, biases and masks.

/// A token and the natural logarithm of its probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Logprob {
    pub id: u32,
    pub logprob: f32,
}

/// What was asked of one draw.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Of the token that was drawn.
    pub logprob: f32,
    /// The likeliest tokens, likeliest first.
    pub top: Vec<Logprob>,
}

/// Of token `id` and of the `top` likeliest. `buffer` is memory to work in.
pub fn of(logits: &[f32], id: u32, top: usize, buffer: &mut Vec<(f32, u32)>) -> Logprobs {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from((l - highest).exp())).sum();
    let all = f64::from(highest) + sum.ln();
    let logprob = |logit: f32| (f64::from(logit) - all) as f32;
    let top = top.min(logits.len());
    let mut likeliest = Vec::with_capacity(top);
    if top > 0 {
        buffer.clear();
        buffer.extend(logits.iter().copied().zip(0..));
        let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if top < buffer.len() {
            buffer.select_nth_unstable_by(top, order);
            buffer.truncate(top);
        }
        buffer.sort_unstable_by(order);
        likeliest.extend(buffer.iter().map(|(logit, id)| Logprob { id: *id, logprob: logprob(*logit) }));
    }
    Logprobs { logprob: logits.get(id as usize).map_or(f32::NEG_INFINITY, |l| logprob(*l)), top: likeliest }
}
