//! `scx_vmfirst status`.

use clap::Args;
use vmfirst_host::read::Root;

use crate::machine::{self, TRIED};
use crate::record::{self, Status, now};
use crate::{Error, print};

/// The options.
#[derive(Debug, Args)]
pub struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// List the kernels that were tried, or are known to be bad
    #[arg(long, conflicts_with = "json")]
    kernels: bool,
}

impl Options {
    /// Shows.
    pub fn run(&self, root: &Root) -> Result<(), Error> {
        if self.kernels {
            let rows = TRIED.iter().map(|tried| {
                let verdict = if tried.bad { "refused" } else { "good" };
                format!("{:<14} {verdict:<8} {}\n", tried.release, tried.result)
            });
            return print(&rows.collect::<String>());
        }
        let status = record::status(root);
        if self.json {
            let text = serde_json::to_string(&status).unwrap_or_default();
            return print(&format!("{text}\n"));
        }
        print(&shown(&status, machine::running(root).as_deref(), now()))
    }
}

/// What a person reads: `kernel` is the scheduler that the kernel says it runs.
fn shown(status: &Status, kernel: Option<&str>, now: u64) -> String {
    let mut text = match (&status.running, kernel) {
        (Some(run), _) => format!(
            "runs (process {}) for {}, mode {}, on kernel {}\n",
            run.pid,
            span(now.saturating_sub(run.since)),
            run.mode,
            run.kernel
        ),
        (None, Some(other)) => format!("does not run; another sched_ext scheduler does: {other}\n"),
        (None, None) => "does not run: threads are under the kernel's own scheduler\n".into(),
    };
    for lost in status.running.iter().flat_map(|run| &run.lost) {
        text += &format!("lost on this kernel: {lost}\n");
    }
    text + &match &status.ended {
        Some(end) => format!(
            "last end (process {}, {} ago): {}\n",
            end.pid,
            span(now.saturating_sub(end.at)),
            end.why
        ),
        None => "no end is known since the machine started\n".into(),
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{End, Run};

    #[test]
    fn what_runs_what_is_lost_and_why_it_ended_is_shown() {
        let status = Status {
            running: Some(Run {
                pid: 9,
                since: 100,
                kernel: "7.3".into(),
                mode: "fair".into(),
                lost: vec!["spins are not seen".into()],
            }),
            ended: Some(End {
                pid: 8,
                at: 50,
                why: "runnable task stall".into(),
            }),
        };
        assert_eq!(
            shown(&status, Some("vmfirst"), 400),
            "runs (process 9) for 5 min, mode fair, on kernel 7.3\n\
             lost on this kernel: spins are not seen\n\
             last end (process 8, 5 min ago): runnable task stall\n"
        );
        let none = shown(&Status::default(), Some("lavd"), 400);
        assert!(none.contains("lavd") && none.contains("no end"), "{none}");
    }
}
