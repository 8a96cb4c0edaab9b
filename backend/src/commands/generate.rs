//! `littoral-node generate`: one answer on the terminal, through the same engine that serves.

use std::{
    io::{IsTerminal, Write},
    time::Instant,
};

use anyhow::{Context, bail};
use littoral_core::chat::{ChatRequest, Message};
use littoral_node::{
    model,
    serve::{Node, Settings, recorder},
};
use littoral_proto::v1::{GenerateRequest, delta::Part, event::Kind};

use super::{load, model_name};
use crate::cli::Generate;

pub fn run(options: Generate) -> anyhow::Result<()> {
    let estimate = model::estimate(&options.model).context("the model cannot be read")?;
    let (loaded, kv_blocks) = load(&options.model, options.device, estimate.context_length)?;
    let name = model_name(&options.model);
    let settings = Settings {
        node: "generate".into(),
        model: name.clone(),
        slots: 1,
        queue: 0,
        rows: 256,
        kv_blocks,
        speculate: true,
    };
    let node = Node::start(loaded, settings, recorder()?.0)?;
    let request = request(&options, name);
    let request = ChatRequest::from_client(&request.to_bytes()).map_err(|denial| anyhow::anyhow!(denial.message))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let seed = options.seed.map(i64::cast_unsigned);
    let generate = GenerateRequest {
        model: request.model.clone(),
        request: request.to_bytes().into(),
        seed,
        ..Default::default()
    };
    runtime.block_on(async {
        let mut events = node.generate(generate).await;
        let (mut out, mut first, began) = (std::io::stdout(), None, Instant::now());
        while let Some(event) = events.next().await {
            match event.kind {
                Some(Kind::Delta(delta)) => {
                    first.get_or_insert_with(Instant::now);
                    if let Some(Part::Text(text)) = delta.part {
                        out.write_all(text.as_bytes())?;
                        out.flush()?;
                    }
                }
                Some(Kind::Usage(usage)) => {
                    writeln!(out)?;
                    if std::io::stderr().is_terminal() {
                        let first = first.unwrap_or(began);
                        let steps = usage.completion_tokens.saturating_sub(1);
                        eprintln!(
                            "{} prompt tokens in {:.2} s, then {:.1} tokens/s",
                            usage.prompt_tokens,
                            (first - began).as_secs_f64(),
                            f64::from(steps) / first.elapsed().as_secs_f64().max(1e-9),
                        );
                    }
                }
                Some(Kind::Error(error)) => bail!("{}", error.message),
                _ => {}
            }
        }
        Ok(())
    })
}

fn request(options: &Generate, model: String) -> ChatRequest {
    let message = |role: &str, content: &String| Message {
        role: role.into(),
        content: content.clone(),
        name: None,
        reasoning_content: None,
        tool_call_id: None,
        tool_calls: None,
    };
    let system = options.system.iter().map(|text| message("system", text));
    ChatRequest {
        model,
        messages: system.chain([message("user", &options.prompt)]).collect(),
        max_tokens: Some(options.max_tokens),
        temperature: options.temperature,
        top_p: options.top_p,
        stop: options.stop.clone(),
        seed: None,
        sampling: Default::default(),
        tools: Vec::new(),
        tool_choice: Default::default(),
        response_format: Default::default(),
        thinking: None,
        user_id: None,
        stream: true,
        stream_options: None,
    }
}
