//! Every architecture computes what the reference computes: `golden/tiny.py` made small random checkpoints of each, and
//! their logits, with transformers.

mod cases;
mod gguf;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod gpu;
mod refused;
mod resumed;

use std::sync::Arc;

use cases::{CASES, Case, argmax, assert_close, run, segment, table};
use littoral_node::{
    model::{BLOCK_TOKENS, DeviceChoice, Form, KvDtype, Logits, Part, Quantize},
    sample::Sampler,
};

#[test]
fn every_checkpoint_is_tested() {
    let folder = cases::folder();
    let mut found: Vec<String> =
        folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, CASES);
}

#[test]
fn prefill_whole_in_chunks_and_token_by_token() {
    for case in CASES.map(Case::open) {
        let mut model = case.model(DeviceChoice::Cpu);
        let a = &case.prompts[0];
        for chunk in [a.ids.len(), 1, 5, 16, 33] {
            let blocks: Vec<u32> = table(a.ids.len(), 1, 3).into_iter().rev().collect();
            let mut logits = Vec::new();
            for (i, tokens) in a.ids.chunks(chunk).enumerate() {
                logits.extend(run(&mut model, tokens, i * chunk, &blocks));
            }
            assert_close(&logits, &a.logits, &format!("{} in chunks of {chunk}", case.name));
        }
    }
}

#[test]
fn a_batch_of_unequal_lengths() {
    for case in CASES.map(Case::open) {
        let mut model = case.model(DeviceChoice::Cpu);
        let tables: Vec<Vec<u32>> = (0..case.prompts.len()).map(|i| table(64, i, case.prompts.len())).collect();
        let segments: Vec<_> =
            case.prompts.iter().zip(&tables).map(|(prompt, blocks)| segment(&prompt.ids, 0, blocks)).collect();
        let out = model.step(&segments).unwrap();
        for (prompt, logits) in case.prompts.iter().zip(out) {
            assert_close(&logits.unwrap(), &prompt.logits, &format!("{}, {} of a batch", case.name, prompt.name));
        }
    }
}

#[test]
fn a_sequence_goes_on_from_the_blocks_of_another() {
    for case in CASES.map(Case::open) {
        let mut model = case.model(DeviceChoice::Cpu);
        let (a, vocab) = (&case.prompts[0], case.vocab());
        let shared = a.ids.len() / BLOCK_TOKENS;
        let first = table(a.ids.len(), 2, 1);
        run(&mut model, &a.ids, 0, &first);
        // Another sequence takes over the full blocks, one by one fewer, and computes the rest in blocks of its own.
        for kept in (1..=shared).rev() {
            let mut blocks = table(a.ids.len(), 20, 1);
            blocks[..kept].copy_from_slice(&first[..kept]);
            let start = kept * BLOCK_TOKENS;
            if start == a.ids.len() {
                continue;
            }
            let logits = run(&mut model, &a.ids[start..], start, &blocks);
            assert_close(&logits, &a.logits[start * vocab..], &format!("{} from token {start}", case.name));
        }
    }
}

#[test]
fn greedy_decoding() {
    for case in CASES.map(Case::open) {
        let mut model = case.model(DeviceChoice::Cpu);
        let (a, vocab) = (&case.prompts[0], case.vocab());
        let blocks = table(a.ids.len() + case.greedy.len(), 0, 2);
        let mut last = run(&mut model, &a.ids, 0, &blocks);
        for (i, expected) in case.greedy.iter().enumerate() {
            let what = format!("{} greedy token {i}", case.name);
            let row = &last[last.len() - vocab..];
            assert_close(row, &case.greedy_logits[i * vocab..][..vocab], &what);
            assert_eq!(argmax(row), *expected, "{what}");
            last = run(&mut model, &[*expected], a.ids.len() + i, &blocks);
        }
    }
}

#[test]
fn both_forms_of_latent_attention_equal_the_reference() {
    for case in CASES.map(Case::open).iter().filter(|case| case.is_latent()) {
        for form in [Form::Absorbed, Form::Expanded] {
            let mut model = case.model_in(DeviceChoice::Cpu, form);
            for prompt in &case.prompts {
                let blocks = table(prompt.ids.len(), 5, 2);
                let logits = run(&mut model, &prompt.ids, 0, &blocks);
                assert_close(&logits, &prompt.logits, &format!("{}, {} {form:?}", case.name, prompt.name));
            }
        }
    }
}

#[test]
fn latent_attention_keeps_its_latent_vector_and_one_key() {
    for case in CASES.map(Case::open).iter().filter(|case| case.is_latent()) {
        let number = |key: &str| case.config[key].as_u64().unwrap_or(0);
        let index = if case.config["model_type"] == "deepseek_v32" { number("index_head_dim") } else { 0 };
        let elements = number("kv_lora_rank") + number("qk_rope_head_dim") + index;
        let bytes = number("num_hidden_layers") * elements * 4;
        let model = case.model(DeviceChoice::Cpu);
        assert_eq!(model.info().kv_bytes_per_block, bytes * BLOCK_TOKENS as u64, "{}", case.name);
    }
}

#[test]
fn keys_and_values_of_f16_take_half_the_memory_and_stay_close() {
    /// f16 has 11 bits.
    const MOST: f32 = 1e-2;
    for case in CASES.map(Case::open).iter().filter(|case| case.may_halve()) {
        let mut model = case.model_of_halves();
        let plain = case.model(DeviceChoice::Cpu).info().kv_bytes_per_block;
        assert_eq!((model.info().kv_cache_dtype, model.info().kv_bytes_per_block * 2), (KvDtype::F16, plain));
        let a = &case.prompts[0];
        for chunk in [a.ids.len(), 1, 33] {
            let blocks: Vec<u32> = table(a.ids.len(), 1, 3).into_iter().rev().collect();
            let mut logits = Vec::new();
            for (i, tokens) in a.ids.chunks(chunk).enumerate() {
                logits.extend(run(&mut model, tokens, i * chunk, &blocks));
            }
            // Where V3.2 sees some tokens only, less than rounding decides which.
            let rows = case.config["index_topk"].as_u64().map_or(a.ids.len(), |top| top as usize) * case.vocab();
            let error = cases::error(&logits[..rows], &a.logits[..rows]);
            println!("{} in chunks of {chunk}: {error:.1e}", case.name);
            // An error as of f32 would mean that nothing was rounded.
            assert!((1e-5..=MOST).contains(&error), "{} in chunks of {chunk}: {error:e}", case.name);
        }
    }
}

#[test]
fn a_rows_bits_do_not_depend_on_its_company() {
    // Grouped attention only: the two forms of latent attention differ by rounding.
    for case in CASES.map(Case::open).iter().filter(|case| case.is_grouped()) {
        for (fast, kept) in [(false, KvDtype::F32), (false, KvDtype::F16), (true, KvDtype::F16)] {
            let mut model = match (fast, kept) {
                (true, _) => case.quantised_model(Quantize::Int8),
                (false, KvDtype::F16) => case.model_of_halves(),
                (false, KvDtype::F32) => case.model(DeviceChoice::Cpu),
            };
            assert_eq!(model.info().kv_cache_dtype, kept);
            let (a, vocab) = (&case.prompts[0], case.vocab());
            let blocks = table(a.ids.len(), 0, 2);
            let whole = run(&mut model, &a.ids, 0, &blocks);
            for chunk in [1, 3, 16, 40] {
                let others: Vec<Vec<u32>> = (0..3).map(|i| table(64, 31 + i, 3)).collect();
                let mut logits = Vec::new();
                for (i, tokens) in a.ids.chunks(chunk).enumerate() {
                    // Some steps have company, before and after.
                    let mut segments: Vec<_> =
                        (0..i % 3).map(|j| segment(&case.prompts[j % 2 + 1].ids, 0, &others[j])).collect();
                    segments.insert(segments.len() / 2, segment(tokens, i * chunk, &blocks));
                    let own = segments.len() / 2;
                    let own = if segments.len() == 1 { 0 } else { own.min(segments.len() - 1) };
                    let place = segments.iter().position(|s| std::ptr::eq(s.tokens, tokens)).unwrap_or(own);
                    logits.extend(model.step(&segments).unwrap().remove(place).unwrap());
                }
                let same = logits.iter().zip(&whole).filter(|(a, b)| a.to_bits() == b.to_bits()).count();
                assert_eq!(same, a.ids.len() * vocab, "{} in chunks of {chunk}, fast {fast}, {kept}", case.name);
            }
        }
    }
}

#[test]
fn logits_are_given_where_they_are_wanted() {
    let case = Case::open("llama");
    let mut model = case.model(DeviceChoice::Cpu);
    let vocab = case.vocab();
    let tables: Vec<Vec<u32>> = (0..3).map(|i| table(64, i, 3)).collect();
    let mut segments: Vec<_> = (0..3).map(|i| segment(&case.prompts[i].ids, 0, &tables[i])).collect();
    segments[0].logits = Logits::None;
    segments[1].logits = Logits::Last;
    let out = model.step(&segments).unwrap();
    assert!(out[0].is_none());
    let (last, all) = (out[1].as_ref().unwrap(), out[2].as_ref().unwrap());
    assert_eq!((last.len(), all.len()), (vocab, case.prompts[2].ids.len() * vocab));
    let expected = &case.prompts[1].logits;
    assert_close(last, &expected[expected.len() - vocab..], "the last");
    assert_close(all, &case.prompts[2].logits, "all");
}

#[test]
fn quantised_on_load_weights_are_smaller_and_close() {
    let case = Case::open("llama");
    let a = &case.prompts[0];
    let blocks = table(a.ids.len(), 0, 1);
    let plain = case.model(DeviceChoice::Cpu).info().weights_bytes;
    let mut before = 0.0;
    for (quantize, share, most) in [(Quantize::Int8, 0.35, 0.2), (Quantize::Int4, 0.22, 2.0)] {
        let mut model = case.quantised_model(quantize);
        let bytes = model.info().weights_bytes as f64 / plain as f64;
        assert!(bytes < share, "{quantize:?}: {bytes} of the bytes");
        let error = cases::error(&run(&mut model, &a.ids, 0, &blocks), &a.logits);
        println!("{quantize:?}: {error:.1e} of the largest logit, {bytes:.2} of the bytes");
        // Fewer bits, more error; none at all would mean that nothing was quantised.
        assert!(error > before && error <= most, "{quantize:?}: {error}");
        before = error;
    }
}

#[test]
fn a_profiled_step_says_where_its_time_went_and_computes_the_same() {
    for name in ["llama", "deepseek-v3", "deepseek-v4"] {
        let case = Case::open(name);
        let (a, blocks) = (&case.prompts[0], table(case.prompts[0].ids.len(), 0, 1));
        let mut plain = case.model(DeviceChoice::Cpu);
        let expected = run(&mut plain, &a.ids, 0, &blocks);
        assert_eq!(plain.spent(), None);
        let mut model = case.model(DeviceChoice::Cpu).profiled();
        let began = std::time::Instant::now();
        assert_eq!(run(&mut model, &a.ids, 0, &blocks), expected, "{name}");
        let (took, read) = (began.elapsed(), model.spent().unwrap());
        assert!(read.iter().sum::<std::time::Duration>() <= took, "{name}: {read:?} in {took:?}");
        model.forward(&[segment(&a.ids, 0, &blocks)]).unwrap();
        let sampler = Sampler::new(Arc::default(), 0, &a.ids);
        assert_eq!(model.draw(&[sampler.draw(0, None)]).unwrap().len(), 1, "{name}");
        let drawn = model.spent().unwrap();
        for (part, (read, drawn)) in Part::ALL.into_iter().zip(read.into_iter().zip(drawn)) {
            assert!(!drawn.is_zero(), "{name}: {part:?}");
            assert_eq!(read.is_zero(), part == Part::Sampler, "{name}: {part:?} of what is read and not drawn from");
        }
    }
}
