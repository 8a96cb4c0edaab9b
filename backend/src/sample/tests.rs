//! Greedy, softmax frequencies, top-p, and draws that depend on seed, choice and index alone.

use super::*;

const WARM: Sampler = Sampler { temperature: 1.0, top_p: 1.0, seed: 7, choice: 0 };

fn draw(sampler: &Sampler, logits: &[f32], draws: u32) -> Vec<u32> {
    let mut scratch = Scratch::new();
    (0..draws).map(|index| sampler.pick(logits, index, &mut scratch).unwrap()).collect()
}

#[test]
fn greedy_takes_the_first_of_the_greatest() {
    let greedy = Sampler { temperature: 0.0, ..WARM };
    assert_eq!(draw(&greedy, &[0.5, 2.0, -1.0, 2.0], 3), [1, 1, 1]);
}

#[test]
fn frequencies_follow_the_softmax() {
    let logits = [0.0f32, 1.0, 2.0, f32::NEG_INFINITY];
    for temperature in [0.5, 1.0, 2.0] {
        const DRAWS: u32 = 40_000;
        let drawn = draw(&Sampler { temperature, ..WARM }, &logits, DRAWS);
        let weights: Vec<f64> = logits.iter().map(|l| (f64::from(*l) / temperature).exp()).collect();
        let whole: f64 = weights.iter().sum();
        for (id, weight) in weights.iter().enumerate() {
            let seen = drawn.iter().filter(|d| **d as usize == id).count() as f64 / f64::from(DRAWS);
            assert!((seen - weight / whole).abs() < 0.01, "{temperature} {id}: {seen} {}", weight / whole);
        }
    }
}

#[test]
fn top_p_keeps_the_likeliest_alone() {
    // Probabilities 0.64, 0.24, 0.09, 0.03.
    let logits = [1.0f32, 3.0, 0.0, 2.0];
    let seen = |top_p: f64| {
        let mut drawn = draw(&Sampler { top_p, ..WARM }, &logits, 4000);
        drawn.sort_unstable();
        drawn.dedup();
        drawn
    };
    assert_eq!(seen(0.0), [1]);
    assert_eq!(seen(0.6), [1]);
    assert_eq!(seen(0.7), [1, 3]);
    assert_eq!(seen(0.9), [0, 1, 3]);
    assert_eq!(seen(1.0), [0, 1, 2, 3]);
}

#[test]
fn a_wide_nucleus_is_cut_where_a_full_sort_would_cut_it() {
    let logits: Vec<f32> = (0..5000).map(|i| ((i * 7919) % 5000) as f32 / 1000.0).collect();
    for top_p in [0.01, 0.3, 0.9, 0.999] {
        let mut candidates: Scratch = logits.iter().zip(0..).map(|(l, id)| (l.exp(), id)).collect();
        let mut sorted = candidates.clone();
        sorted.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mass = top_p * candidates.iter().map(|(w, _)| f64::from(*w)).sum::<f64>();
        let (mut sum, mut needed) = (0.0, 0);
        while sum < mass {
            sum += f64::from(sorted[needed].0);
            needed += 1;
        }
        assert_eq!(nucleus(&mut candidates, top_p), &sorted[..needed], "{top_p}");
    }
}

#[test]
fn a_draw_depends_on_seed_choice_and_index_and_on_nothing_else() {
    let logits: Vec<f32> = (0..100).map(|i| (i % 10) as f32 / 5.0).collect();
    let all = draw(&WARM, &logits, 50);
    assert_eq!(draw(&WARM, &logits, 50), all);
    let mut fresh = Scratch::new();
    assert_eq!(WARM.pick(&logits, 42, &mut fresh), Ok(all[42]), "an index alone draws what the whole stream draws");
    assert_ne!(draw(&Sampler { seed: 8, ..WARM }, &logits, 50), all);
    assert_ne!(draw(&Sampler { choice: 1, ..WARM }, &logits, 50), all);
}

#[test]
fn the_rounding_of_another_batch_changes_no_draw() {
    // As many tokens as a vocabulary has, and the difference that the golden tests allow ten times over.
    let logits: Vec<f32> = (0..50_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 1e6).collect();
    let rounded: Vec<f32> = logits.iter().zip(0..).map(|(l, i)| l + if i % 3 == 0 { 3e-5 } else { -3e-5 }).collect();
    assert_ne!(rounded, logits);
    for top_p in [1.0, 0.9] {
        let sampler = Sampler { top_p, ..WARM };
        assert_eq!(draw(&sampler, &rounded, 200), draw(&sampler, &logits, 200), "{top_p}");
    }
}

#[test]
fn logits_that_are_no_numbers_are_an_error() {
    let mut scratch = Scratch::new();
    for sampler in [WARM, Sampler { temperature: 0.0, ..WARM }, Sampler { top_p: 0.5, ..WARM }] {
        let mut pick = |logits: &[f32]| sampler.pick(logits, 0, &mut scratch);
        assert_eq!(pick(&[1.0, f32::NAN]), Err(SampleError::NotANumber(1)));
        assert_eq!(pick(&[f32::INFINITY, 1.0]), Err(SampleError::NotANumber(0)));
        assert_eq!(pick(&[f32::NEG_INFINITY; 3]), Err(SampleError::Empty));
        assert_eq!(pick(&[]), Err(SampleError::Empty));
    }
}
