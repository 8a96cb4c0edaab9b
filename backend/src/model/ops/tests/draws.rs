//! Draws, against those of the host.

use std::sync::Arc;

use burn::tensor::Device;
use rand::Rng;

use super::{Source, tensor};
use crate::{
    model::ops,
    sample::{Draw, Mask, Picked, SampleError, Sampler, Sampling, words},
};

fn drawn(logits: &[f32], vocab: usize, draws: &[Draw], device: &Device) -> Vec<Result<Picked, SampleError>> {
    let words = ops::draw(tensor(logits, [logits.len() / vocab, vocab], device), draws);
    assert_eq!(words.dims(), [draws.len(), words::width(draws, vocab)]);
    let words: Vec<u32> = words.into_data().try_into_vec().expect("words");
    let each = words.chunks_exact(words.len() / draws.len());
    each.zip(draws).map(|(words, draw)| words::read(words, draw.sampling, vocab)).collect()
}

/// Draws of every kind from rows as long as a vocabulary: what the device draws is what the host does.
pub fn draws(device: &Device) {
    let source = &mut Source::new(11);
    for vocab in [5, 1000, 50_257] {
        let rows = 3;
        let logits: Vec<f32> = source.floats(rows * vocab).iter().map(|x| x * x * x * 9.0).collect();
        let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
        let penalties =
            Sampling { repetition_penalty: 1.3, frequency_penalty: 0.4, presence_penalty: 0.2, ..Sampling::default() };
        let kinds = [
            Sampling::default(),
            Sampling { temperature: 0.3, ..Sampling::default() },
            greedy.clone(),
            Sampling { top_k: 40, ..Sampling::default() },
            Sampling { top_k: 1, ..Sampling::default() },
            Sampling { top_k: vocab * 2, ..Sampling::default() },
            Sampling { top_p: 0.9, ..Sampling::default() },
            Sampling { top_p: 0.0, ..Sampling::default() },
            Sampling { top_p: 0.5, top_k: 20, min_p: 0.01, temperature: 1.7, ..Sampling::default() },
            Sampling { min_p: 0.2, ..Sampling::default() },
            Sampling { logit_bias: vec![(3, 7.0), (1, -100.0), (99_999_999, 5.0)], ..penalties.clone() },
            Sampling { logprobs: Some(0), ..Sampling::default() },
            Sampling { logprobs: Some(20), logit_bias: vec![(2, 50.0)], ..greedy },
        ];
        let mask: Vec<u32> = (0..vocab.div_ceil(32)).map(|_| source.0.random()).collect();
        let masks: [Option<&Mask>; 3] = [None, Some(&mask), Some(&[0b10110])];
        let mut samplers = Vec::new();
        for seed in 0..6 {
            for sampling in &kinds {
                let sampling = Sampling { seed, ..sampling.clone() };
                let mut sampler = Sampler::new(Arc::new(sampling), seed as u32 % 2, &[1, 4]);
                (0..seed as u32).for_each(|id| sampler.accept(id % 3));
                samplers.push((sampler, masks[seed as usize % 3]));
            }
        }
        // With changes and masks in the step, and without.
        let bare = kinds[..8].iter().map(|sampling| (Sampler::new(Arc::new(sampling.clone()), 3, &[]), None)).collect();
        for samplers in [samplers, bare] {
            let draws: Vec<Draw> =
                samplers.iter().enumerate().map(|(i, (sampler, mask))| sampler.draw(i % rows, *mask)).collect();
            let found = drawn(&logits, vocab, &draws, device);
            for (draw, found) in draws.iter().zip(found) {
                let expected = draw.pick(&logits[draw.row * vocab..][..vocab]).expect("a token");
                let found = found.expect("a token");
                assert_eq!(found.id, expected.id, "{vocab}: {:?}", draw.sampling);
                let flat = |picked: &Picked| {
                    picked.logprobs.as_ref().map(|asked| {
                        let top = asked.top.iter().map(|top| (top.id, top.logprob));
                        std::iter::once((picked.id, asked.logprob)).chain(top).collect::<Vec<_>>()
                    })
                };
                let (found, expected) = (flat(&found), flat(&expected));
                assert_eq!(found.as_ref().map(Vec::len), expected.as_ref().map(Vec::len));
                for ((id, logprob), (expected_id, expected)) in found.iter().flatten().zip(expected.iter().flatten()) {
                    assert_eq!(id, expected_id, "{vocab}");
                    assert!((logprob - expected).abs() < 1e-4, "{vocab}: {logprob} {expected}");
                }
            }
        }
    }
}

/// Equal logits are decided in favour of the smaller id, and cuts leave as many as they say.
pub fn ties(device: &Device) {
    let vocab = 300;
    // Values 0 to 2, a hundred times each: 2 is first at id 2.
    let logits: Vec<f32> = (0..vocab).map(|id| (id % 3) as f32).collect();
    let many = |sampling: Sampling| -> Vec<u32> {
        let samplers = (0..64).map(|seed| Sampler::new(Arc::new(Sampling { seed, ..sampling.clone() }), 0, &[]));
        let samplers: Vec<Sampler> = samplers.collect();
        let draws: Vec<Draw> = samplers.iter().map(|sampler| sampler.draw(0, None)).collect();
        let mut ids: Vec<u32> =
            drawn(&logits, vocab, &draws, device).into_iter().map(|picked| picked.expect("a token").id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    };
    assert_eq!(many(Sampling { temperature: 0.0, ..Sampling::default() }), [2]);
    assert_eq!(many(Sampling { top_k: 3, ..Sampling::default() }), [2, 5, 8]);
    assert_eq!(many(Sampling { top_k: 1, ..Sampling::default() }), [2]);
    // A token with 2 has about a 150th of all.
    assert_eq!(many(Sampling { top_p: 0.012, ..Sampling::default() }), [2, 5]);
    // Of 104, the last four have 1.
    let wide = many(Sampling { top_k: 104, temperature: 9.0, ..Sampling::default() });
    assert!(wide.len() > 30 && wide.iter().all(|id| id % 3 == 2 || [1, 4, 7, 10].contains(id)), "{wide:?}");
}

/// Rows without a token to draw.
pub fn wrong(device: &Device) {
    let vocab = 70;
    let mut logits = vec![0.5f32; 4 * vocab];
    logits[vocab + 33] = f32::NAN;
    logits[vocab + 44] = f32::NAN;
    logits[2 * vocab + 69] = f32::INFINITY;
    logits[3 * vocab..].fill(f32::NEG_INFINITY);
    for sampling in [
        Sampling::default(),
        Sampling { temperature: 0.0, logprobs: Some(2), ..Sampling::default() },
        Sampling { top_p: 0.5, top_k: 3, frequency_penalty: 1.0, ..Sampling::default() },
    ] {
        let mut sampler = Sampler::new(Arc::new(sampling), 0, &[]);
        sampler.accept(33);
        let none: &Mask = &[0, 0];
        let draws: Vec<Draw> = (0..4)
            .map(|row| sampler.draw(row, None))
            .chain([sampler.draw(0, Some(none)), sampler.draw(1, Some(none))])
            .collect();
        let errors: Vec<Option<SampleError>> =
            drawn(&logits, vocab, &draws, device).into_iter().map(Result::err).collect();
        let nan = Some(SampleError::NotANumber(33));
        let (infinite, empty) = (Some(SampleError::NotANumber(69)), Some(SampleError::Empty));
        assert_eq!(errors, [None, nan, infinite, empty, empty, nan]);
    }
}
