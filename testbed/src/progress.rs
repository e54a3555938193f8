//! What a person sees while something takes long. Into a pipe goes a line for each thing
//! that begins, so that a log tells what is under way.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Lines at the bottom of the terminal, one for each thing under way.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    lines: MultiProgress,
}

impl Progress {
    /// A line for a thing of unknown length.
    pub fn spinner(&self, what: &str) -> ProgressBar {
        self.line(
            ProgressBar::new_spinner(),
            "{spinner} {msg} ({elapsed})",
            what,
        )
    }

    /// A line for a thing of `total` steps, with the time left.
    pub fn bar(&self, what: &str, total: u64) -> ProgressBar {
        let template = "{spinner} {msg} {wide_bar} {pos}/{len} ({elapsed}, {eta} left)";
        self.line(ProgressBar::new(total), template, what)
    }

    fn line(&self, bar: ProgressBar, template: &str, what: &str) -> ProgressBar {
        self.step(what);
        // The templates above are constants that indicatif takes.
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self
            .lines
            .add(bar.with_style(style).with_message(what.to_string()));
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }

    /// Tells a log, and nobody who watches a bar, what begins now.
    pub fn step(&self, what: &str) {
        if !std::io::stderr().is_terminal() {
            eprintln!("{what} ...");
        }
    }

    /// Prints a line above the others, also where nothing is drawn.
    pub fn say(&self, text: &str) {
        self.lines.suspend(|| eprintln!("{text}"));
    }
}
