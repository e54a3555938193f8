//! dbench 4.0 from Debian, with its whole load file, on the disk.
//!
//! dbench prints a line a second with the mean rate since its start, so the
//! bytes up to line k are rate times time, and the rate in a window is the
//! difference of two such products over the difference of the times. Its own
//! warm-up, a fifth of the run, would restart the count: a run of less than
//! five seconds has none, as dbench divides whole seconds.

use std::process::Child;
use std::time::Duration;

use rustix::fs::statvfs;

use crate::protocol::{Go, Outcome};
use crate::window::{Counts, Window};
use crate::{DISK, Error, Result, shell};

const PROGRAM: &str = "/usr/bin/dbench";
const LOAD: &str = "/usr/share/dbench/client.txt";
/// From this many seconds on dbench has a warm-up of its own.
const OWN_WARMUP: u64 = 5;

/// One of dbench's lines while it runs.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Progress {
    /// Mean number of the load file's lines that a client has done.
    operations: f64,
    /// Mean rate since the start, in MB/s.
    rate: f64,
    /// Longest latency since the last line, in ms.
    latency_ms: f64,
}

/// What dbench says in a line.
#[derive(Debug, PartialEq)]
enum Line {
    Progress(Progress),
    /// A client could not do what the load says.
    Failure,
    Other,
}

/// Runs dbench until the window's end.
pub fn run(go: &Go) -> Result<Outcome> {
    let seconds = whole_seconds(go)?;
    let window = Window::new(go);
    let limit = (seconds + 1).to_string();
    let clients = go.clients.to_string();
    let mut child = shell::spawn(PROGRAM, &["-t", &limit, "-D", DISK, "-c", LOAD, &clients])?;
    let outcome = watch(&mut child, &window);
    stop(&mut child)?;
    outcome
}

/// dbench counts in whole seconds, and so must the window.
fn whole_seconds(go: &Go) -> Result<u64> {
    let end_ms = go.warmup_ms + go.window_ms;
    let end = end_ms / 1000;
    let whole = |ms: u64| ms.is_multiple_of(1000);
    let fits = go.warmup_ms > 0 && end + 1 < OWN_WARMUP;
    if !(fits && whole(go.warmup_ms) && whole(end_ms)) {
        return Err(Error::Workload(format!(
            "dbench takes a warm-up of at least 1 s and a window, both in whole seconds and \
             together at most {} s, not {} ms and {} ms",
            OWN_WARMUP - 2,
            go.warmup_ms,
            go.window_ms
        )));
    }
    Ok(end)
}

/// Reads dbench's lines up to the window's end.
fn watch(child: &mut Child, window: &Window) -> Result<Outcome> {
    let mut begin: Option<(f64, Progress, Counts)> = None;
    for line in shell::lines(child) {
        let now = window.go.elapsed();
        match parse(&line) {
            Line::Failure => return Err(Error::Workload(format!("a client failed: {line}"))),
            Line::Other => {}
            Line::Progress(progress) => match &begin {
                None if due(now, window.begin) => {
                    begin = Some((now.as_secs_f64(), progress, Counts::now()));
                }
                Some((start, first, counts)) if due(now, window.end) => {
                    return outcome(*start, *first, counts, now.as_secs_f64(), progress);
                }
                _ => {}
            },
        }
    }
    Err(Error::Workload("dbench ended before the window did".into()))
}

/// dbench's seconds begin a little after GO, so a line that belongs to a point
/// in time never comes more than half a second before it.
fn due(now: Duration, point: Duration) -> bool {
    now + Duration::from_millis(500) >= point
}

fn outcome(
    start: f64,
    first: Progress,
    counts: &Counts,
    end: f64,
    last: Progress,
) -> Result<Outcome> {
    let mut extras = Counts::now().since(counts);
    let disk = statvfs(DISK).map_err(Error::os("look at the disk"))?;
    let free = disk.f_bavail as f64 / disk.f_blocks as f64;
    if free < 0.02 {
        return Err(Error::Workload("the disk is full: make it larger".into()));
    }
    extras.insert("disk_free_share".into(), free);
    extras.insert(
        "operations_per_client".into(),
        last.operations - first.operations,
    );
    extras.insert("latency_max_ms".into(), last.latency_ms);
    let window_s = end - start;
    Ok(Outcome {
        value: (last.rate * end - first.rate * start) / window_s,
        unit: "MB/s",
        window_s,
        extras,
    })
}

/// What is measured is measured: the clean-up of the files is not waited for.
fn stop(child: &mut Child) -> Result<()> {
    child.kill().map_err(Error::os("stop dbench"))?;
    child.wait().map_err(Error::os("wait for dbench"))?;
    Ok(())
}

/// Reads a line such as
/// `   4       567    40.60 MB/sec  execute   2 sec  latency 12.345 ms`.
fn parse(line: &str) -> Line {
    let words: Vec<&str> = line.split_whitespace().collect();
    if let [
        _,
        operations,
        rate,
        "MB/sec",
        "execute",
        _,
        "sec",
        "latency",
        latency,
        "ms",
    ] = words[..]
        && let (Ok(operations), Ok(rate), Ok(latency_ms)) =
            (operations.parse(), rate.parse(), latency.parse())
    {
        return Line::Progress(Progress {
            operations,
            rate,
            latency_ms,
        });
    }
    // dbench's clients print the failing call with its line of the load file.
    let lower = line.to_lowercase();
    if ["fail", "error", "no space", "unable", "cannot"]
        .iter()
        .any(|w| lower.contains(w))
    {
        return Line::Failure;
    }
    Line::Other
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go(warmup_ms: u64, window_ms: u64) -> Go {
        Go {
            workload: "dbench".into(),
            clients: 4,
            warmup_ms,
            window_ms,
            seed: 1,
        }
    }

    #[test]
    fn progress_lines_are_read() {
        let line = "   4       567    40.60 MB/sec  execute   2 sec  latency 12.345 ms";
        let expected = Progress {
            operations: 567.0,
            rate: 40.6,
            latency_ms: 12.345,
        };
        assert_eq!(parse(line), Line::Progress(expected));
    }

    #[test]
    fn failures_of_clients_are_seen_and_the_rest_is_not_one() {
        assert_eq!(
            parse("[412] open ./clients/client1/x failed for handle 10 (No space left on device)"),
            Line::Failure
        );
        assert_eq!(
            parse("write failed on handle 9939 (Success)"),
            Line::Failure
        );
        assert_eq!(parse("   4  cleanup   3 sec"), Line::Other);
        assert_eq!(parse("4 clients started"), Line::Other);
    }

    #[test]
    fn windows_are_whole_seconds() {
        assert_eq!(whole_seconds(&go(1000, 2000)).unwrap(), 3);
        for (warmup, window) in [(0, 1000), (1000, 500), (1500, 1500), (2000, 2000)] {
            assert!(whole_seconds(&go(warmup, window)).is_err());
        }
    }
}
