//! `littoral models`: model files in the user's cache folder.

use std::time::SystemTime;

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use littoral_models::{CATALOGUE, Progress, Shelf, Source, pull};

#[derive(Debug, Subcommand)]
pub enum Models {
    /// What is here, what it takes on disk, and what is known by name.
    List {
        /// One JSON document, for scripts.
        #[arg(long)]
        json: bool,
    },
    /// Fetches a model: by its name, or `owner/repository/file.gguf` of the hub. Prints the file's path.
    Pull { model: String },
    /// Removes a model file.
    Rm { model: String },
}

impl Models {
    pub fn run(self) -> anyhow::Result<()> {
        let shelf = Shelf::of_user()?;
        match self {
            Self::List { json } => list(&shelf, json),
            Self::Pull { model } => {
                let source = Source::parse(&model)?;
                let bar = Bar::new();
                let path = pull(&source, &shelf, &bar)?;
                bar.0.finish_and_clear();
                println!("{}", path.display());
                Ok(())
            }
            Self::Rm { model } => {
                let freed = shelf.remove(&model)?;
                println!("{} came free", mib(freed));
                Ok(())
            }
        }
    }
}

fn list(shelf: &Shelf, json: bool) -> anyhow::Result<()> {
    let kept = shelf.list()?;
    if json {
        let unix = |time: Option<SystemTime>| time?.duration_since(SystemTime::UNIX_EPOCH).ok().map(|d| d.as_secs());
        let models: Vec<_> = kept
            .iter()
            .map(|k| serde_json::json!({ "name": k.name, "path": k.path, "bytes": k.bytes, "modified": unix(k.modified) }))
            .collect();
        println!("{}", serde_json::to_string_pretty(&models)?);
        return Ok(());
    }
    println!("{}", shelf.dir().display());
    for model in &kept {
        println!("  {:>10}  {}", mib(model.bytes), model.name);
    }
    println!("  {:>10}  in all", mib(kept.iter().map(|k| k.bytes).sum()));
    println!("known by name:");
    for listed in CATALOGUE {
        let here = kept.iter().any(|k| k.name == listed.wheel.file);
        println!("  {}{}  {}", listed.name, if here { " (here)" } else { "" }, listed.about);
    }
    Ok(())
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}");
        // Draws to standard error, and nothing where that is no terminal.
        Self(ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
    }
}

impl Progress for Bar {
    fn bytes(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }
}
