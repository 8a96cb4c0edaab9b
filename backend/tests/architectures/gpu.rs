//! The same results from a GPU, or from a rasteriser that computes like one.

use littoral_node::{model::DeviceChoice, sample::Sampling};

use super::{
    cases::{CASES, Case, argmax, assert_close, run, table},
    resumed::{answer_of, as_the_model_wants},
};

#[cfg(feature = "wgpu")]
mod wgpu {
    #[test]
    fn prefill_and_four_tokens_equal_the_reference() {
        super::prefill_and_four_tokens("wgpu");
    }

    #[tokio::test]
    async fn answers_are_drawn_as_on_the_cpu() {
        super::answers("wgpu").await;
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    #[test]
    fn prefill_and_four_tokens_equal_the_reference() {
        super::prefill_and_four_tokens("cuda");
    }

    #[tokio::test]
    async fn answers_are_drawn_as_on_the_cpu() {
        super::answers("cuda").await;
    }
}

fn prefill_and_four_tokens(device: &str) {
    let device: DeviceChoice = device.parse().unwrap();
    for case in CASES.map(Case::open) {
        let mut model = case.model(device);
        let (a, vocab) = (&case.prompts[0], case.vocab());
        let blocks: Vec<u32> = table(a.ids.len() + 4, 1, 2).into_iter().rev().collect();
        let logits = run(&mut model, &a.ids, 0, &blocks);
        assert_close(&logits, &a.logits, &format!("{} prefill on {}", case.name, model.device()));
        let mut last = logits[logits.len() - vocab..].to_vec();
        for (i, expected) in case.greedy[..4].iter().enumerate() {
            let what = format!("{} token {i} on {}", case.name, model.device());
            assert_close(&last, &case.greedy_logits[i * vocab..][..vocab], &what);
            assert_eq!(argmax(&last), *expected, "{what}");
            last = run(&mut model, &[*expected], a.ids.len() + i, &blocks);
        }
    }
}

async fn answers(device: &str) {
    let device: DeviceChoice = device.parse().unwrap();
    let case = Case::open("deepseek-v3");
    let cut = Sampling { top_p: 0.8, top_k: 50, frequency_penalty: 0.5, ..Sampling::default() };
    for sampling in [Sampling { temperature: 0.0, ..Sampling::default() }, Sampling::default(), cut] {
        let sampling = Sampling { seed: 5, logprobs: Some(3), ..sampling };
        let answer = |device| answer_of(case.model(device), &case, (&[], as_the_model_wants), (sampling.clone(), 12));
        let (here, there) = (answer(DeviceChoice::Cpu).await, answer(device).await);
        let tokens = |said: &[(u32, Vec<u32>)]| said.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        assert_eq!(tokens(&there), tokens(&here), "{sampling:?}");
        let bits = here.iter().zip(&there).flat_map(|(here, there)| here.1.iter().zip(&there.1));
        for (here, there) in bits.map(|(here, there)| (f32::from_bits(*here), f32::from_bits(*there))) {
            assert!((here - there).abs() < 1e-3, "{here} {there}: {sampling:?}");
        }
    }
}
