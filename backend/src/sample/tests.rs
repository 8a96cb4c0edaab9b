//! Greedy, softmax frequencies, every cut and penalty, and draws that depend on seed, choice and index alone.

use super::{candidates::nucleus, *};

fn warm() -> Sampling {
    Sampling { seed: 7, ..Sampling::default() }
}

fn greedy() -> Sampling {
    Sampling { temperature: 0.0, ..warm() }
}

fn sampler(sampling: Sampling) -> Sampler {
    Sampler::new(Arc::new(sampling), 0, &[])
}

fn pick(sampler: &Sampler, logits: &[f32], mask: Option<&Mask>) -> Result<Picked, SampleError> {
    sampler.draw(0, mask).pick(logits)
}

/// Draws one after the other, as if none became part of the text but for its position.
fn draw(sampler: &Sampler, logits: &[f32], draws: u32) -> Vec<u32> {
    let mut sampler = sampler.clone();
    let mut one = || {
        let id = pick(&sampler, logits, None).unwrap().id;
        sampler.index += 1;
        id
    };
    (0..draws).map(|_| one()).collect()
}

fn seen(sampling: Sampling, logits: &[f32]) -> Vec<u32> {
    let mut drawn = draw(&sampler(sampling), logits, 4000);
    drawn.sort_unstable();
    drawn.dedup();
    drawn
}

#[test]
fn greedy_takes_the_first_of_the_greatest() {
    assert_eq!(draw(&sampler(greedy()), &[0.5, 2.0, -1.0, 2.0], 3), [1, 1, 1]);
}

#[test]
fn frequencies_follow_the_softmax() {
    let logits = [0.0f32, 1.0, 2.0, f32::NEG_INFINITY];
    for temperature in [0.5, 1.0, 2.0] {
        const DRAWS: u32 = 40_000;
        let drawn = draw(&sampler(Sampling { temperature, ..warm() }), &logits, DRAWS);
        let weights: Vec<f64> = logits.iter().map(|l| (f64::from(*l) / temperature).exp()).collect();
        let whole: f64 = weights.iter().sum();
        for (id, weight) in weights.iter().enumerate() {
            let seen = drawn.iter().filter(|d| **d as usize == id).count() as f64 / f64::from(DRAWS);
            assert!((seen - weight / whole).abs() < 0.01, "{temperature} {id}: {seen} {}", weight / whole);
        }
    }
}

/// Probabilities 0.64, 0.24, 0.09, 0.03.
const FOUR: [f32; 4] = [1.0, 3.0, 0.0, 2.0];

#[test]
fn top_p_keeps_the_likeliest_alone() {
    let kept = |top_p: f64| seen(Sampling { top_p, ..warm() }, &FOUR);
    assert_eq!(kept(0.0), [1]);
    assert_eq!(kept(0.6), [1]);
    assert_eq!(kept(0.7), [1, 3]);
    assert_eq!(kept(0.9), [0, 1, 3]);
    assert_eq!(kept(1.0), [0, 1, 2, 3]);
}

#[test]
fn top_k_and_min_p_keep_the_likeliest_too_and_top_p_is_a_share_of_what_they_leave() {
    let top_k = |top_k: usize| seen(Sampling { top_k, ..warm() }, &FOUR);
    assert_eq!((top_k(1), top_k(2), top_k(4), top_k(0)), (vec![1], vec![1, 3], vec![0, 1, 2, 3], vec![0, 1, 2, 3]));
    // e^-1 = 0.37 of the likeliest one's probability, e^-2 = 0.14.
    let min_p = |min_p: f64| seen(Sampling { min_p, ..warm() }, &FOUR);
    assert_eq!((min_p(1.0), min_p(0.36), min_p(0.13)), (vec![1], vec![1, 3], vec![0, 1, 3]));
    // Of the two that top-k leaves, the likeliest has 0.73.
    let both = |top_p: f64| seen(Sampling { top_k: 2, top_p, ..warm() }, &FOUR);
    assert_eq!((both(0.72), both(0.74)), (vec![1], vec![1, 3]));
}

#[test]
fn a_wide_nucleus_is_cut_where_a_full_sort_would_cut_it() {
    let logits: Vec<f32> = (0..5000).map(|i| ((i * 7919) % 5000) as f32 / 1000.0).collect();
    for top_p in [0.01, 0.3, 0.9, 0.999] {
        let mut candidates: Vec<(f32, u32)> = logits.iter().zip(0..).map(|(l, id)| (l.exp(), id)).collect();
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
fn penalties_count_what_was_said() {
    let best = |sampling: Sampling, prompt: &[u32], answer: &[u32], logits: &[f32]| {
        let mut sampler = Sampler::new(Arc::new(Sampling { temperature: 0.0, ..sampling }), 0, prompt);
        answer.iter().for_each(|id| sampler.accept(*id));
        pick(&sampler, logits, None).unwrap().id
    };
    let presence = Sampling { presence_penalty: 1.0, ..warm() };
    assert_eq!(best(presence.clone(), &[1], &[], &[0.0, 0.9]), 1, "the prompt does not count");
    assert_eq!(best(presence.clone(), &[], &[1, 1, 1], &[0.0, 0.9]), 0);
    assert_eq!(best(presence, &[], &[1, 1, 1], &[0.0, 1.1]), 1, "three times count once");
    let frequency = Sampling { frequency_penalty: 0.5, ..warm() };
    assert_eq!(best(frequency.clone(), &[], &[1], &[0.0, 0.9]), 1);
    assert_eq!(best(frequency, &[], &[1, 1], &[0.0, 0.9]), 0);
    let repetition = Sampling { repetition_penalty: 2.0, ..warm() };
    assert_eq!(best(repetition.clone(), &[1], &[], &[1.0, 1.9]), 0, "the prompt counts");
    assert_eq!(best(repetition.clone(), &[], &[1, 1], &[0.9, 2.0]), 1, "and often counts once");
    assert_eq!(best(repetition, &[], &[0], &[-1.0, -1.5]), 1, "a negative logit falls too");
}

#[test]
fn a_bias_moves_a_token_and_a_mask_forbids_it() {
    let logits: Vec<f32> = (0..70).map(|i| i as f32 / 10.0).collect();
    let bias = Sampling { logit_bias: vec![(3, 100.0), (69, -100.0)], ..greedy() };
    assert_eq!(pick(&sampler(bias), &logits, None).unwrap().id, 3);
    let bias = Sampling { logit_bias: vec![(69, -100.0)], ..greedy() };
    assert_eq!(pick(&sampler(bias), &logits, None).unwrap().id, 68);
    let mask = [0b101, 0b10];
    assert_eq!(pick(&sampler(greedy()), &logits, Some(&mask)).unwrap().id, 33);
    for index in 0..200 {
        let sampler = Sampler { index, ..sampler(Sampling { temperature: 2.0, ..warm() }) };
        assert!([0, 2, 33].contains(&pick(&sampler, &logits, Some(&mask)).unwrap().id));
    }
    let none = pick(&sampler(greedy()), &logits, Some(&[0, 0, 0]));
    assert_eq!(none, Err(SampleError::Empty));
}

#[test]
fn log_probabilities_are_those_of_the_model_whatever_is_drawn() {
    let sampling = Sampling { logprobs: Some(2), temperature: 0.0, logit_bias: vec![(0, 50.0)], ..warm() };
    let picked = pick(&sampler(sampling), &FOUR, None).unwrap();
    let logprobs = picked.logprobs.unwrap();
    assert_eq!(picked.id, 0);
    assert!((logprobs.logprob.exp() - 0.0871).abs() < 1e-3, "{logprobs:?}");
    assert_eq!(logprobs.top.iter().map(|t| t.id).collect::<Vec<_>>(), [1, 3]);
    assert!((logprobs.top[0].logprob.exp() - 0.6439).abs() < 1e-3);
    let whole = Sampling { logprobs: Some(9), ..warm() };
    let top = pick(&sampler(whole), &FOUR, None).unwrap().logprobs.unwrap().top;
    assert!((top.iter().map(|t| t.logprob.exp()).sum::<f32>() - 1.0).abs() < 1e-5);
}

#[test]
fn a_draw_depends_on_seed_choice_and_index_and_on_nothing_else() {
    let logits: Vec<f32> = (0..100).map(|i| (i % 10) as f32 / 5.0).collect();
    let all = draw(&sampler(warm()), &logits, 50);
    assert_eq!(draw(&sampler(warm()), &logits, 50), all);
    let late = Sampler { index: 42, ..sampler(warm()) };
    assert_eq!(draw(&late, &logits, 1), all[42..43], "an index alone draws what the whole stream draws");
    assert_ne!(draw(&sampler(Sampling { seed: 8, ..warm() }), &logits, 50), all);
    assert_ne!(draw(&Sampler { choice: 1, ..sampler(warm()) }, &logits, 50), all);
}

#[test]
fn the_rounding_of_another_batch_changes_no_draw() {
    // As many tokens as a vocabulary has, and the difference that the golden tests allow ten times over.
    let logits: Vec<f32> = (0..50_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 1e6).collect();
    let rounded: Vec<f32> = logits.iter().zip(0..).map(|(l, i)| l + if i % 3 == 0 { 3e-5 } else { -3e-5 }).collect();
    assert_ne!(rounded, logits);
    for top_p in [1.0, 0.9] {
        let sampler = sampler(Sampling { top_p, ..warm() });
        assert_eq!(draw(&sampler, &rounded, 200), draw(&sampler, &logits, 200), "{top_p}");
    }
}

#[test]
fn logits_that_are_no_numbers_are_an_error() {
    let penalised = Sampling { frequency_penalty: 1.0, ..warm() };
    for sampling in [warm(), greedy(), Sampling { top_p: 0.5, ..warm() }, penalised] {
        let pick = |logits: &[f32]| pick(&sampler(sampling.clone()), logits, None);
        assert_eq!(pick(&[1.0, f32::NAN]), Err(SampleError::NotANumber(1)));
        assert_eq!(pick(&[f32::INFINITY, 1.0]), Err(SampleError::NotANumber(0)));
        assert_eq!(pick(&[f32::NEG_INFINITY; 3]), Err(SampleError::Empty));
        assert_eq!(pick(&[]), Err(SampleError::Empty));
    }
    let masked = pick(&sampler(warm()), &[f32::NAN, 1.0], Some(&[0b10]));
    assert_eq!(masked, Err(SampleError::NotANumber(0)));
}

#[test]
fn what_was_drawn_is_read_from_a_devices_words_as_it_was() {
    for logprobs in [None, Some(0), Some(3), Some(9)] {
        let sampling = Sampling { logprobs, ..warm() };
        let sampler = sampler(sampling.clone());
        let draw = sampler.draw(0, None);
        let rows = [&FOUR[..], &[f32::NAN, 0.0, 0.0, 0.0], &[0.0, 0.0, 0.0, f32::INFINITY], &[f32::NEG_INFINITY; 4]];
        for row in rows {
            let picked = draw.pick(row);
            let mut words = vec![0; words::width(&[draw], row.len())];
            words::write(&picked, &mut words);
            assert_eq!(words::read(&words, &sampling, row.len()), picked, "{logprobs:?}");
        }
    }
}
