//! dbench 4.0 from Debian, with its whole load file, on the disk.
//!
//! Operations count, the lines of the load that clients have done, and not bytes as in
//! dbench's own result: the load's first thousand lines move 22 KB each, the second
//! thousand 4, so in a window near the load's beginning a client that is further on
//! would move less. Bytes a second are told beside.
//!
//! dbench prints a line a second with the mean rate since it released its
//! clients, so the bytes up to a line are that rate times that time, and the
//! rate in a window is the difference of two such products over the difference
//! of their times. Both times are taken here, when the line comes: dbench
//! prints whole seconds.
//!
//! A fifth of dbench's run is a warm-up of its own, at whose end it would start
//! its counts anew. The run is therefore given a length whose fifth is never
//! reached; its lines then say `warmup`, and it is killed after the window.

use std::time::Duration;

use rustix::fs::statvfs;

use crate::protocol::{Go, Outcome};
use crate::shell::Program;
use crate::window::{Counts, Window};
use crate::{DISK, Error, Result};

const PROGRAM: &str = "/usr/bin/dbench";
const LOAD: &str = "/usr/share/dbench/client.txt";
/// In s; long enough that its fifth never ends.
const ENDLESS: &str = "1000000000";
/// A disk that is fuller than this at the end may have been full before.
const LEAST_FREE: f64 = 0.02;

/// What dbench says in a line.
#[derive(Debug, PartialEq)]
enum Line {
    /// Which load, how many clients are prepared.
    Preamble,
    /// The clients start now, and so does dbench's clock.
    Release,
    Progress(Progress),
    /// Anything else: only a client that failed prints more.
    Failure,
}

/// One of dbench's lines while it runs.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Progress {
    /// Clients that have read or written anything.
    active: f64,
    /// Mean number of the load file's lines that a client has done.
    operations: f64,
    /// Mean rate since the release, in MB/s.
    rate: f64,
    /// Longest latency since the last line, in ms.
    latency_ms: f64,
}

/// Runs dbench until the window's end.
pub fn run(go: &Go) -> Result<Outcome> {
    check(go)?;
    let window = Window::new(go);
    let clients = go.clients.to_string();
    let args = ["-t", ENDLESS, "-D", DISK, "-c", LOAD, &clients];
    let mut program = Program::start(PROGRAM, &args)?;
    let outcome = watch(&mut program, &window, go.clients);
    // What is measured is measured: the clean-up of the files is not waited for.
    program.kill();
    outcome
}

/// dbench speaks once a second, so the window begins and ends with its lines.
fn check(go: &Go) -> Result<()> {
    let whole = |ms: u64| ms > 0 && ms.is_multiple_of(1000);
    if !(whole(go.warmup_ms) && whole(go.window_ms)) {
        return Err(Error::Workload(format!(
            "dbench takes whole seconds, at least one each: not a warm-up of {} ms and a window of {} ms",
            go.warmup_ms, go.window_ms
        )));
    }
    if !std::fs::exists("/dev/vda").unwrap_or(false) {
        return Err(Error::Workload(
            "dbench needs a disk: start the guest with one".into(),
        ));
    }
    Ok(())
}

/// Reads dbench's lines up to the window's end.
fn watch(program: &mut Program, window: &Window, clients: u32) -> Result<Outcome> {
    let mut meter = Meter::new(window);
    let mut before = Counts::default();
    while let Some(line) = program.next_line() {
        match meter.read(window.go.elapsed(), &line)? {
            Step::On => {}
            Step::Begin => before = Counts::now(),
            Step::End(figures) => return outcome(&figures, &before, clients),
        }
    }
    Err(Error::Workload("dbench ended before the window did".into()))
}

/// What a line means for the measurement.
#[derive(Debug, PartialEq)]
enum Step {
    On,
    Begin,
    End(Figures),
}

/// What was measured in the window.
#[derive(Debug, PartialEq)]
struct Figures {
    megabytes: f64,
    operations: f64,
    latency_max_ms: f64,
    active: f64,
    window_s: f64,
}

/// A line and the time at which it came, from GO.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Duration,
    megabytes: f64,
    progress: Progress,
}

/// Follows dbench's lines through the window: the first line at or after the
/// warm-up begins it, the one that is its length later ends it.
struct Meter {
    warm: Duration,
    length: Duration,
    released: Option<Duration>,
    begin: Option<Mark>,
    latency_max_ms: f64,
}

/// A line that is read late makes the next one seem early: the window ends with
/// the line that is nearest to its length.
const SLACK: Duration = Duration::from_millis(500);

impl Meter {
    fn new(window: &Window) -> Self {
        Self {
            warm: window.begin,
            length: window.end - window.begin,
            released: None,
            begin: None,
            latency_max_ms: 0.0,
        }
    }

    fn read(&mut self, now: Duration, line: &str) -> Result<Step> {
        match parse(line) {
            Line::Preamble => Ok(Step::On),
            Line::Release => {
                self.released = Some(now);
                Ok(Step::On)
            }
            Line::Progress(progress) => Ok(self.progress(now, progress)),
            Line::Failure => Err(Error::Workload(format!("a client failed: {line}"))),
        }
    }

    fn progress(&mut self, now: Duration, progress: Progress) -> Step {
        let Some(released) = self.released else {
            return Step::On;
        };
        let mark = Mark {
            at: now,
            megabytes: progress.rate * (now - released).as_secs_f64(),
            progress,
        };
        let Some(begin) = self.begin else {
            if now < self.warm {
                return Step::On;
            }
            self.begin = Some(mark);
            return Step::Begin;
        };
        self.latency_max_ms = self.latency_max_ms.max(progress.latency_ms);
        if now + SLACK < begin.at + self.length {
            return Step::On;
        }
        Step::End(Figures {
            megabytes: mark.megabytes - begin.megabytes,
            operations: progress.operations - begin.progress.operations,
            latency_max_ms: self.latency_max_ms,
            active: progress.active,
            window_s: (now - begin.at).as_secs_f64(),
        })
    }
}

fn outcome(figures: &Figures, before: &Counts, clients: u32) -> Result<Outcome> {
    let mut extras = Counts::now().since(before);
    if figures.active < f64::from(clients) {
        return Err(Error::Workload(format!(
            "only {} of {clients} clients did anything: give a longer warm-up",
            figures.active
        )));
    }
    let disk = statvfs(DISK).map_err(Error::os("look at the disk"))?;
    let free = disk.f_bavail as f64 / disk.f_blocks as f64;
    if free < LEAST_FREE {
        return Err(Error::Workload("the disk is full: make it larger".into()));
    }
    extras.insert("disk_free_share".into(), free);
    let mb_per_s = figures.megabytes / figures.window_s;
    extras.insert("mb_per_s".into(), mb_per_s);
    extras.insert("latency_max_ms".into(), figures.latency_max_ms);
    Ok(Outcome {
        value: figures.operations * f64::from(clients) / 1e3 / figures.window_s,
        unit: "k ops/s",
        window_s: figures.window_s,
        extras,
    })
}

/// Reads a line. While it runs dbench says, in each second,
/// `   4       567    40.60 MB/sec  warmup   2 sec  latency 12.345 ms`.
fn parse(line: &str) -> Line {
    // In a fresh kernel the first semaphore has the number 0, which dbench takes
    // for a failure; with a real one it would not get to the release.
    const PREAMBLE: [&str; 3] = [
        "dbench version ",
        "Running for ",
        "failed to create barrier semaphore",
    ];
    if let Some(progress) = parse_progress(line) {
        return Line::Progress(progress);
    }
    if line == "releasing clients" {
        Line::Release
    } else if line.is_empty()
        || PREAMBLE.iter().any(|text| line.starts_with(text))
        || line.contains(" processes prepared for launch ")
    {
        Line::Preamble
    } else {
        Line::Failure
    }
}

fn parse_progress(line: &str) -> Option<Progress> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [
        active,
        operations,
        rate,
        "MB/sec",
        "warmup",
        _,
        "sec",
        "latency",
        latency,
        "ms",
    ] = words[..]
    else {
        return None;
    };
    Some(Progress {
        active: active.parse().ok()?,
        operations: operations.parse().ok()?,
        rate: rate.parse().ok()?,
        latency_ms: latency.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "dbench version 4.00 - Copyright Andrew Tridgell 1999-2004

Running for 1000000000 seconds with load '/usr/share/dbench/client.txt' and minimum warmup 200000000 secs
failed to create barrier semaphore
0 of 2 processes prepared for launch   0 sec
2 of 2 processes prepared for launch   0 sec
releasing clients";

    fn go(warmup_ms: u64, window_ms: u64) -> Go {
        Go {
            workload: "dbench".into(),
            clients: 2,
            warmup_ms,
            window_ms,
            seed: 1,
        }
    }

    /// A meter to which dbench has said, at `ms`, that it releases the clients.
    fn released(ms: u64) -> Meter {
        let mut meter = Meter::new(&Window::new(&go(1000, 2000)));
        for line in BEFORE.lines() {
            let step = meter.read(Duration::from_millis(ms), line).unwrap();
            assert_eq!(step, Step::On);
        }
        meter
    }

    fn read(meter: &mut Meter, ms: u64, rate: f64, latency: f64) -> Step {
        let line = format!("   2     {ms}   {rate} MB/sec  warmup   1 sec  latency {latency} ms");
        meter.read(Duration::from_millis(ms), &line).unwrap()
    }

    #[test]
    fn the_rate_is_that_between_the_windows_lines() {
        let mut meter = released(200);
        // 100 MB until 1.2 s, 100 until 2.2 s, 400 until 3.2 s.
        assert_eq!(read(&mut meter, 1200, 100.0, 99.0), Step::Begin);
        assert_eq!(read(&mut meter, 2200, 50.0, 7.0), Step::On);
        let Step::End(figures) = read(&mut meter, 3200, 400.0 / 3.0, 5.0) else {
            panic!("no end");
        };
        assert!((figures.megabytes - 300.0).abs() < 1e-9);
        assert!((figures.operations - 2000.0).abs() < 1e-9);
        assert!((figures.window_s - 2.0).abs() < 1e-9);
        assert_eq!((figures.latency_max_ms, figures.active), (7.0, 2.0));
    }

    #[test]
    fn the_window_never_begins_in_the_warm_up() {
        let mut meter = released(0);
        assert_eq!(read(&mut meter, 999, 100.0, 1.0), Step::On);
        assert_eq!(read(&mut meter, 1900, 100.0, 1.0), Step::Begin);
        assert_eq!(read(&mut meter, 3000, 100.0, 1.0), Step::On);
        assert!(matches!(read(&mut meter, 3850, 100.0, 1.0), Step::End(_)));
    }

    #[test]
    fn whatever_else_is_said_fails_the_guest() {
        for line in [
            "[412] open ./clients/client1/x failed for handle 10 (No space left on device)",
            "[412] wrote 512 bytes, expected to write 4096 bytes on handle 7",
            "[9] open ./clients/client1/x succeeded for handle 10",
            "ERROR: child 0 failed at line 3",
            "(5) ERROR: handle 7 was not found",
            "Child failed with status 1",
            "FAILED TO START 4 CLIENTS (started 2)",
            "   4  cleanup   3 sec",
        ] {
            let error = released(0).read(Duration::ZERO, line).unwrap_err();
            assert!(error.to_string().contains(line), "{error}");
        }
    }

    #[test]
    fn windows_are_whole_seconds() {
        for (warmup, window) in [(0, 1000), (1000, 0), (1000, 500), (1500, 1500)] {
            let error = check(&go(warmup, window)).unwrap_err().to_string();
            assert!(error.contains("whole seconds"), "{error}");
        }
    }
}
