//! The same results from a GPU, or from a rasteriser that computes like one.

use littoral_node::model::DeviceChoice;

use super::cases::{CASES, Case, argmax, assert_close, run, table};

#[cfg(feature = "wgpu")]
mod wgpu {
    #[test]
    fn prefill_and_four_tokens_equal_the_reference() {
        super::prefill_and_four_tokens("wgpu");
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    #[test]
    fn prefill_and_four_tokens_equal_the_reference() {
        super::prefill_and_four_tokens("cuda");
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
