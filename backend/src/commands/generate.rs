//! `littoral-node generate`: one answer on the terminal, without a server.

use std::{
    io::{IsTerminal, Write},
    path::Path,
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, bail};
use littoral_core::chat::Message;
use littoral_node::{
    engine::StopMatcher,
    model::{self, BLOCK_TOKENS, Logits, Model, Segment},
    sample::{Sampler, Sampling},
    text::{ChatTemplate, Detokenizer, Tokenizer},
};
use safetensors::{Dtype, tensor::TensorView};
use serde::Serialize;

use super::{load, locate};
use crate::cli::Generate;

/// Tokens of the prompt that one step takes.
const CHUNK: usize = 256;

/// What `--json` prints.
#[derive(Serialize)]
struct Document {
    /// None where the model has no tokenizer.
    text: Option<String>,
    tokens: Vec<u32>,
    finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<Step>>,
    usage: Usage,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
}

/// A token and what else was likely.
#[derive(Serialize)]
struct Step {
    #[serde(flatten)]
    token: Candidate,
    top_logprobs: Vec<Candidate>,
}

#[derive(Serialize)]
struct Candidate {
    id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    logprob: f64,
}

pub fn run(options: Generate) -> anyhow::Result<()> {
    let path = locate(&options.model)?;
    let estimate = model::estimate(&path, &options.compute.options(1)).context("the model cannot be loaded")?;
    if std::io::stderr().is_terminal() {
        super::announce(&estimate);
    }
    // The prompt's length is known only with the tokenizer, which comes with the model: a short context is set aside
    // whole, of a long one what prompts are likely to need.
    let wanted = options.tokens.len().max(8192).saturating_add(options.max_tokens as usize);
    let (mut loaded, blocks) = load(&path, options.compute, wanted.min(estimate.context_length))?;
    let prompt = prompt(&options, loaded.tokenizer.as_deref(), loaded.template.as_ref())?;
    let room = (blocks * BLOCK_TOKENS).min(estimate.context_length);
    if prompt.is_empty() || prompt.len() > room {
        bail!("the prompt has {} tokens; 1 to {room} are possible", prompt.len());
    }
    let mut run = Run {
        model: &mut loaded.model,
        blocks: (0..blocks as u32).collect(),
        dumped: options.dump_logits.is_some().then(Vec::new),
    };
    let began = Instant::now();
    let logits = run.prompt(&prompt)?;
    if let (Some(path), Some(dumped)) = (&options.dump_logits, &run.dumped) {
        dump(path, dumped, prompt.len())?;
    }
    let first = Instant::now();
    let mut answer = Answer::new(&options, loaded.tokenizer.clone(), &prompt);
    let finish_reason = answer.generate(&mut run, &options, prompt.len(), room, logits)?;
    let seconds = first.elapsed().as_secs_f64();
    let usage = Usage { prompt_tokens: prompt.len(), completion_tokens: answer.tokens.len() };
    if options.json {
        let text = answer.text.is_some().then_some(answer.all);
        let document = Document { text, tokens: answer.tokens, finish_reason, logprobs: answer.steps, usage };
        writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&document)?)?;
    } else if std::io::stderr().is_terminal() {
        eprintln!(
            "{} prompt tokens in {:.2} s, then {:.1} tokens/s",
            usage.prompt_tokens,
            (first - began).as_secs_f64(),
            usage.completion_tokens.saturating_sub(1) as f64 / seconds.max(1e-9),
        );
    }
    Ok(())
}

/// The ids of the prompt.
fn prompt(
    options: &Generate,
    tokenizer: Option<&Tokenizer>,
    template: Option<&ChatTemplate>,
) -> anyhow::Result<Vec<u32>> {
    let Some(text) = &options.prompt else { return Ok(options.tokens.clone()) };
    let Some(tokenizer) = tokenizer else {
        bail!("there is no tokenizer beside the model: give token ids with --tokens");
    };
    let Some(template) = template else {
        if options.system.is_some() {
            bail!("the model has no chat template: it continues a --prompt, and has no place for --system");
        }
        return Ok(tokenizer.encode(text));
    };
    let message = |role: &str, content: &String| Message {
        role: role.into(),
        content: content.clone(),
        name: None,
        reasoning_content: None,
        tool_call_id: None,
        tool_calls: None,
    };
    let system = options.system.iter().map(|text| message("system", text));
    let messages: Vec<Message> = system.chain([message("user", text)]).collect();
    Ok(template.encode(tokenizer, &messages)?)
}

/// A model and the one sequence that it runs.
struct Run<'a> {
    model: &'a mut Model,
    blocks: Vec<u32>,
    /// Logits of all positions of the prompt, if they are asked for.
    dumped: Option<Vec<f32>>,
}

impl Run<'_> {
    /// The logits after the prompt.
    fn prompt(&mut self, ids: &[u32]) -> anyhow::Result<Vec<f32>> {
        let mut last = Vec::new();
        for (i, tokens) in ids.chunks(CHUNK).enumerate() {
            let logits = if self.dumped.is_some() { Logits::All } else { Logits::Last };
            last = self.step(tokens, i * CHUNK, logits)?;
            if let Some(dumped) = &mut self.dumped {
                dumped.extend_from_slice(&last);
            }
        }
        let vocab = self.model.info().vocab;
        Ok(last.split_off(last.len() - vocab))
    }

    fn step(&mut self, tokens: &[u32], start: usize, logits: Logits) -> anyhow::Result<Vec<f32>> {
        let segment = Segment { tokens, start, blocks: &self.blocks, logits };
        let out = self.model.step(&[segment])?.into_iter().next().flatten();
        out.context("the model gave no logits")
    }
}

/// The answer so far.
struct Answer {
    sampler: Sampler,
    tokenizer: Option<Arc<Tokenizer>>,
    text: Option<(Detokenizer, StopMatcher)>,
    /// Text is printed as it comes; else it is kept.
    print: bool,
    all: String,
    tokens: Vec<u32>,
    steps: Option<Vec<Step>>,
}

impl Answer {
    fn new(options: &Generate, tokenizer: Option<Arc<Tokenizer>>, prompt: &[u32]) -> Self {
        let text =
            |tokenizer: &Arc<Tokenizer>| (Detokenizer::new(tokenizer.clone()), StopMatcher::new(options.stop.clone()));
        let sampling = Sampling {
            temperature: options.temperature,
            top_p: options.top_p,
            seed: options.seed.map_or_else(rand::random, i64::cast_unsigned),
            ..Sampling::default()
        };
        Self {
            sampler: Sampler::new(Arc::new(sampling), 0, prompt),
            text: tokenizer.as_ref().map(text),
            tokenizer,
            print: !options.json,
            all: String::new(),
            tokens: Vec::new(),
            steps: options.logprobs.map(|_| Vec::new()),
        }
    }

    /// Generates from the logits after a prompt of `at` tokens; `room` is where the sequence must end. Why it ended.
    fn generate(
        &mut self,
        run: &mut Run,
        options: &Generate,
        mut at: usize,
        room: usize,
        mut logits: Vec<f32>,
    ) -> anyhow::Result<&'static str> {
        loop {
            if self.tokens.len() == options.max_tokens as usize {
                return self.end("length");
            }
            let id = self.sampler.draw(0, None).pick(&logits)?.id;
            self.sampler.accept(id);
            if let (Some(top), Some(steps)) = (options.logprobs, &mut self.steps) {
                let step = step(&logits, id, top.into(), self.tokenizer.as_deref());
                if self.print {
                    eprintln!("{}", serde_json::to_string(&step)?);
                }
                steps.push(step);
            }
            if self.tokenizer.as_ref().is_some_and(|tokenizer| tokenizer.is_end(id)) {
                return self.end("stop");
            }
            self.tokens.push(id);
            if self.say(id)? {
                return self.end("stop");
            }
            if at == room {
                return self.end("length");
            }
            logits = run.step(&[id], at, Logits::Last)?;
            at += 1;
        }
    }

    /// Whether a stop string is complete.
    fn say(&mut self, id: u32) -> anyhow::Result<bool> {
        let Some((detokenizer, stops)) = &mut self.text else {
            self.write(&format!("{}{id}", if self.tokens.len() > 1 { "," } else { "" }))?;
            return Ok(false);
        };
        let mut out = String::new();
        let stopped = detokenizer.push(id).is_some_and(|text| stops.push(&text, &mut out));
        self.write(&out)?;
        Ok(stopped)
    }

    fn end(&mut self, reason: &'static str) -> anyhow::Result<&'static str> {
        let mut out = String::new();
        if let Some((detokenizer, stops)) = &mut self.text
            && reason == "length"
        {
            let rest = detokenizer.finish().unwrap_or_default();
            if !stops.push(&rest, &mut out) {
                stops.flush(&mut out);
            }
        }
        self.write(&out)?;
        if self.print {
            self.write("\n")?;
        }
        Ok(reason)
    }

    fn write(&mut self, text: &str) -> std::io::Result<()> {
        if self.print {
            let mut out = std::io::stdout();
            out.write_all(text.as_bytes())?;
            return out.flush();
        }
        self.all.push_str(text);
        Ok(())
    }
}

/// The log probability of `id` among `logits`, and the `top` likeliest tokens.
fn step(logits: &[f32], id: u32, top: usize, tokenizer: Option<&Tokenizer>) -> Step {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - highest).exp()).sum();
    let candidate = |id: u32| Candidate {
        id,
        token: tokenizer.map(|tokenizer| String::from_utf8_lossy(tokenizer.bytes(id)).into_owned()),
        logprob: f64::from(logits[id as usize] - highest) - sum.ln(),
    };
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
    Step { token: candidate(id), top_logprobs: order.into_iter().take(top).map(candidate).collect() }
}

/// Writes `logits`, f32 `[positions, vocab]`.
fn dump(path: &Path, logits: &[f32], positions: usize) -> anyhow::Result<()> {
    let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![positions, logits.len() / positions], &bytes)?;
    let file = safetensors::serialize([("logits", view)], None)?;
    std::fs::write(path, file).with_context(|| format!("{} cannot be written", path.display()))
}
