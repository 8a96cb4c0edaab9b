//! Drafts and grammars: what may be said, and what is said, does not depend on what was guessed.

use super::*;
use crate::{
    grammar::{Grammars, Spec},
    speculate::Eagerness,
};

#[tokio::test]
async fn drafts_change_no_answer_and_save_steps() {
    let prompt: Vec<u32> = (1..7).cycle().take(60).filter(|t| *t != 13).collect();
    let (mut plain_steps, mut steps) = (0, 0);
    for seed in 0..40 {
        for temperature in [0.0, 0.4, 1.0] {
            let sampling = Sampling { temperature, seed, frequency_penalty: 0.1, ..Sampling::default() };
            let plain = bench(LIMITS, None);
            let expected = plain.answer(asked(&prompt, 40, sampling.clone())).await;
            let drafting = bench(LIMITS, None);
            let answer =
                drafting.answer(Job { speculate: Some(Eagerness::WhenRight), ..asked(&prompt, 40, sampling) }).await;
            assert_eq!(answer, expected, "seed {seed} at {temperature}");
            plain_steps += plain.steps.lock().unwrap().len();
            steps += drafting.steps.lock().unwrap().len();
        }
    }
    assert!(steps < plain_steps, "{steps} steps with drafts, {plain_steps} without");
}

#[tokio::test]
async fn an_answer_is_held_to_its_grammar_also_when_it_is_continued() {
    let vocabulary = || (0..VOCAB).map(|id| if id == END { Vec::new() } else { vec![id as u8 + 64] }).collect();
    let grammars = Grammars::new(vocabulary, [END].into());
    // Tokens 1, 2 and 3 are the letters A, B and C.
    let constrained = |resumed: &[u32]| {
        let mut job = asked(&[5, 6], 20, Sampling { temperature: 3.0, seed: 3, ..Sampling::default() });
        let mut constraint =
            Constraint { grammar: grammars.get(&Spec::Regex("A(B|C){4,6}A".into())).unwrap(), after: None };
        resumed.iter().for_each(|id| assert!(constraint.accept(*id).unwrap()));
        job.task = Task::Answer(vec![Choice { constraint: Some(constraint), ..choice(0, 20, resumed, &[]) }]);
        job
    };
    let bench = bench(LIMITS, None);
    let whole = bench.answer(constrained(&[])).await;
    assert_eq!(whole.reason.as_deref(), Some("stop"), "{whole:?}");
    let letters: Vec<u32> = whole.tokens.iter().copied().filter(|t| *t != END).collect();
    assert!(letters[0] == 1 && letters.last() == Some(&1) && (6..=8).contains(&letters.len()), "{letters:?}");
    assert!(letters[1..letters.len() - 1].iter().all(|t| [2, 3].contains(t)));
    assert_eq!(bench.answer(constrained(&whole.tokens[..3])).await.tokens, whole.tokens[3..]);
}

#[tokio::test]
async fn drafts_change_nothing_of_what_a_grammar_allows() {
    let vocabulary = || (0..VOCAB).map(|id| if id == END { Vec::new() } else { vec![id as u8 + 64] }).collect();
    let grammars = Grammars::new(vocabulary, [END].into());
    let prompt: Vec<u32> = (1..7).cycle().take(60).collect();
    let (mut plain_steps, mut steps) = (0, 0);
    // Loose ones, which drafts often break, and one that leaves no choice; and one that holds after a token.
    for (regex, after) in
        [("[A-F]{30,40}", None), ("(ABC|DEF|@){3,12}", None), ("(ABCDEF){6}", None), ("[A-F]{20}", Some(2))]
    {
        for seed in 0..12 {
            let sampling = Sampling { temperature: 1.0, seed, frequency_penalty: 0.1, ..Sampling::default() };
            let asked = |speculate| {
                let grammar = grammars.get(&Spec::Regex(regex.into())).unwrap();
                let constraint = Some(Constraint { grammar, after });
                let task = Task::Answer(vec![Choice { constraint, ..choice(0, 40, &[], &[]) }]);
                Job { task, speculate, ..asked(&prompt, 40, sampling.clone()) }
            };
            let plain = bench(LIMITS, None);
            let expected = plain.answer(asked(None)).await;
            assert_eq!(expected.error, None, "{regex}");
            let drafting = bench(LIMITS, None);
            assert_eq!(drafting.answer(asked(Some(Eagerness::Always))).await, expected, "{regex}, seed {seed}");
            plain_steps += plain.steps.lock().unwrap().len();
            steps += drafting.steps.lock().unwrap().len();
        }
    }
    assert!(steps < plain_steps, "{steps} steps with drafts, {plain_steps} without");
}

#[tokio::test]
async fn an_answer_does_not_end_before_its_grammar_has_begun_to_hold() {
    const CLOSE: u32 = 9;
    let vocabulary = || (0..VOCAB).map(|id| if id == END { Vec::new() } else { vec![id as u8 + 64] }).collect();
    let grammars = Grammars::new(vocabulary, [END].into());
    let prompt: Vec<u32> = (1..7).cycle().take(20).collect();
    let mut formed = 0;
    for seed in 0..24 {
        // Ends are likelier than anything, so that nothing but the mask is between the answer and them.
        let sampling =
            Sampling { temperature: 1.0, seed, logit_bias: vec![(END, 20.0), (CLOSE, 4.0)], ..Sampling::default() };
        let asked = |resumed: &[u32], speculate| {
            let grammar = grammars.get(&Spec::Regex("[A-C]{3}".into())).unwrap();
            let mut constraint = Constraint { grammar, after: Some(CLOSE) };
            for id in resumed {
                constraint.accept(*id).unwrap();
            }
            let task = Task::Answer(vec![Choice { constraint: Some(constraint), ..choice(0, 40, resumed, &[]) }]);
            Job { task, speculate, ..asked(&prompt, 40, sampling.clone()) }
        };
        let bench = bench(LIMITS, None);
        let whole = bench.answer(asked(&[], None)).await;
        let close = whole.tokens.iter().position(|id| *id == CLOSE);
        match close {
            Some(close) => {
                let [form @ .., END] = &whole.tokens[close + 1..] else { panic!("{whole:?}") };
                assert!(form.len() == 3 && form.iter().all(|id| (1..=3).contains(id)), "{whole:?}");
                formed += 1;
            }
            None => assert_eq!((whole.tokens.len(), whole.reason.as_deref()), (40, Some("length"))),
        }
        assert_eq!(bench.answer(asked(&[], Some(Eagerness::Always))).await.tokens, whole.tokens);
        for sent in [1, close.unwrap_or(5), close.unwrap_or(5) + 1] {
            assert_eq!(bench.answer(asked(&whole.tokens[..sent], None)).await.tokens, whole.tokens[sent..]);
        }
    }
    assert!(formed > 0);
}
