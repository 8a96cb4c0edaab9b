//! What a person sees while work goes on: bars in a terminal, plain lines with seconds elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Without a terminal, a step that goes on says so this often.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);
const NAME_WIDTH: usize = 10;

/// Where steps are drawn. Steps may run side by side, in threads.
pub struct Ui {
    bars: Option<MultiProgress>,
}

/// One piece of work in progress. Dropped without `done`, it is shown as failed.
pub struct Step<'a> {
    ui: &'a Ui,
    name: &'static str,
    started: Instant,
    bar: Option<ProgressBar>,
    spoke: Mutex<Instant>,
    finished: bool,
}

impl Ui {
    pub fn new() -> Self {
        Self { bars: std::io::stderr().is_terminal().then(MultiProgress::new) }
    }

    pub fn step(&self, name: &'static str) -> Step<'_> {
        let now = Instant::now();
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner().with_prefix(format!("{name:NAME_WIDTH$}")));
            bar.set_style(style("  {spinner:.cyan} {prefix} {elapsed:>4} {wide_msg:.dim}"));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Step { ui: self, name, started: now, bar, spoke: Mutex::new(now), finished: false }
    }

    /// A line above the bars.
    pub fn line(&self, text: &str) {
        match &self.bars {
            Some(bars) => drop(bars.println(text)),
            None => eprintln!("{text}"),
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
        .progress_chars("━╸─")
        .tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ ")
}

impl Step<'_> {
    /// What is being done right now.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => self.speak_at_times(|| text.to_owned()),
        }
    }

    /// `done` of `total` pieces, `text` being the current one.
    pub fn progress(&self, done: u64, total: u64, text: &str) {
        match &self.bar {
            Some(_) => self.bar_to(done, total, "{pos}/{len}", text),
            None => self.speak_at_times(|| format!("{done}/{total} {text}")),
        }
    }

    /// `done` of `total` bytes.
    pub fn bytes(&self, done: u64, total: u64) {
        match &self.bar {
            Some(_) => self.bar_to(done, total, "{binary_bytes}/{binary_total_bytes}", ""),
            None => self.speak_at_times(|| format!("{} of {} MiB", done >> 20, total >> 20)),
        }
    }

    fn bar_to(&self, done: u64, total: u64, figures: &str, text: &str) {
        let Some(bar) = &self.bar else { return };
        if bar.length() != Some(total) {
            bar.set_length(total);
            let line = format!(
                "  {{spinner:.cyan}} {{prefix}} {{elapsed:>4}} {{bar:24.cyan/dim}} {figures} {{wide_msg:.dim}}"
            );
            bar.set_style(style(&line));
        }
        bar.set_position(done);
        bar.set_message(text.to_owned());
    }

    fn speak_at_times(&self, text: impl FnOnce() -> String) {
        let mut spoke = self.spoke.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if spoke.elapsed() >= SIGN_OF_LIFE {
            *spoke = Instant::now();
            eprintln!("  … {:NAME_WIDTH$} {:>6.1} s  {}", self.name, self.seconds(), text());
        }
    }

    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// The work is done; `what` came of it.
    pub fn done(mut self, what: &str) {
        self.close("✓", what);
    }

    fn close(&mut self, mark: &str, what: &str) {
        self.finished = true;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.ui.line(&format!("  {mark} {:NAME_WIDTH$} {:>6.1} s  {what}", self.name, self.seconds()));
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.close("✗", "failed");
        }
    }
}
