//! `guests/dedup`, the archiver.

use serde::Deserialize;

use crate::protocol::{Go, Outcome};
use crate::shell::Program;
use crate::window::Counts;
use crate::{Error, Result};

const PROGRAM: &str = "/usr/bin/dedup";

/// What it says at its end; its own source says what the fields mean.
#[derive(Debug, Deserialize)]
struct Report {
    bytes: f64,
    seconds: f64,
    passes: f64,
    duplicate_share: f64,
    packed_share: f64,
}

/// Runs the archiver, which keeps the window itself and checks its archive.
pub fn run(go: &Go) -> Result<Outcome> {
    let args = [
        ("--threads", u64::from(go.clients)),
        ("--warmup-ms", go.warmup_ms),
        ("--window-ms", go.window_ms),
        ("--seed", go.seed),
    ]
    .map(|(name, value)| format!("{name}={value}"));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut program = Program::start(PROGRAM, &args)?;
    let (mut begin, mut end) = (None, None);
    let mut last = String::new();
    while let Some(line) = program.next_line() {
        match line.as_str() {
            "begin" => begin = Some(Counts::now()),
            "end" => end = Some(Counts::now()),
            _ => last = line,
        }
    }
    program.finish()?;
    let (Some(begin), Some(end)) = (begin, end) else {
        return Err(Error::Workload("dedup did not tell its window".into()));
    };
    let report: Report = serde_json::from_str(&last)
        .map_err(|e| Error::Workload(format!("dedup said {last:?}: {e}")))?;
    let mut extras = end.since(&begin);
    extras.insert("passes".into(), report.passes);
    extras.insert("duplicate_share".into(), report.duplicate_share);
    extras.insert("packed_share".into(), report.packed_share);
    Ok(Outcome {
        value: report.bytes / report.seconds / 1e6,
        unit: "MB/s",
        window_s: report.seconds,
        extras,
    })
}
