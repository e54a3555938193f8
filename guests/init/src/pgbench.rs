//! pgbench from Debian: the transactions of TPC-B, with as many clients as vCPUs, each
//! with a server process of its own, over a Unix socket.
//!
//! TPC-B as it is, and not its reading part alone: rows, PostgreSQL's log and its shared
//! memory are what clients wait for each other at, and its sums can be checked. There is
//! a branch for each client, as pgbench advises, so that not all wait for one row.
//!
//! pgbench logs when each transaction ended; those that ended in the window count.
//! TPC-B adds an amount to an account, its teller and its branch, and notes it: after
//! the run all four sums have to be equal, with as many notes as logged transactions.

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};

use crate::postgres::{DATABASE, Server};
use crate::protocol::{Go, Outcome};
use crate::shell::{said, start_quiet, words};
use crate::window::{Counts, Window};
use crate::{Error, Result, vcpus};

/// The logs, a file for each of its threads: the folder, and how their names begin.
const LOG: (&str, &str) = ("/tmp", "pgbench_log");
/// In s: pgbench runs until it is told to end.
const ENDLESS: &str = "1000000";
/// The amounts, and how many there are.
const SUMS: &str = "SELECT (SELECT sum(abalance) FROM pgbench_accounts), \
     (SELECT sum(tbalance) FROM pgbench_tellers), \
     (SELECT sum(bbalance) FROM pgbench_branches), \
     (SELECT sum(delta) FROM pgbench_history), \
     (SELECT count(*) FROM pgbench_history)";

/// Starts a server and makes the tables; the workload then counts transactions.
pub fn prepare() -> Result<impl FnOnce(&Go) -> Result<Outcome>> {
    let server = Server::start()?;
    let scale = vcpus().to_string();
    let tables = ["-i", "-q", "-s", &scale, DATABASE];
    said(server.client("pgbench").args(tables))?;
    Ok(move |go: &Go| {
        let outcome = measure(&server, go);
        let stopped = server.stop();
        // Why there is nothing measured says more than why the server did not end.
        outcome.and_then(|outcome| stopped.map(|()| outcome))
    })
}

fn measure(server: &Server, go: &Go) -> Result<Outcome> {
    let window = Window::new(go);
    let mut load = load(server, go);
    let child = start_quiet(&mut load)?;
    window.sleep_until(window.begin);
    let (before, begin, from) = (Counts::now(), window.go.elapsed(), since_epoch());
    window.sleep_until(window.end);
    let (end, to) = (window.go.elapsed(), since_epoch());
    let mut extras = Counts::now().since(&before);
    // As its own clock does at the end of --time: each client ends its transaction.
    kill_process(Pid::from_child(&child), Signal::ALARM).map_err(Error::os("end pgbench"))?;
    words(&load, child)?;
    let log = logged()?;
    check(&server.query(SUMS)?, log.len())?;
    let tally = Tally::of(&log, (from, to));
    tally.check(go)?;
    let window_s = (end - begin).as_secs_f64();
    extras.insert("latency_max_ms".into(), tally.slowest.as_secs_f64() * 1e3);
    Ok(Outcome {
        value: f64::from(tally.count) / window_s,
        unit: "tx/s",
        window_s,
        extras,
    })
}

/// pgbench, until it is told to end.
fn load(server: &Server, go: &Go) -> Command {
    let (clients, seed) = (go.clients.to_string(), go.seed.to_string());
    let log = format!("--log-prefix={}/{}", LOG.0, LOG.1);
    let mut load = server.client("pgbench");
    load.args(["--no-vacuum", "--client", &clients, "--jobs", &clients])
        .args(["--time", ENDLESS, "--random-seed", &seed])
        .args(["--log", &log, DATABASE]);
    load
}

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// A transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Done {
    client: u32,
    /// When it ended, since the epoch.
    at: Duration,
    latency: Duration,
}

/// All transactions that pgbench has logged.
fn logged() -> Result<Vec<Done>> {
    let unread = || Error::os("read pgbench's logs");
    let mut all = Vec::new();
    for entry in fs::read_dir(LOG.0).map_err(unread())? {
        let entry = entry.map_err(unread())?;
        if !entry.file_name().to_string_lossy().starts_with(LOG.1) {
            continue;
        }
        for line in fs::read_to_string(entry.path()).map_err(unread())?.lines() {
            let strange = || Error::Workload(format!("pgbench logged {line}"));
            all.push(parse(line).ok_or_else(strange)?);
        }
    }
    Ok(all)
}

/// Reads a line of the log: client, number, latency in us, script, and the time of its
/// end in s and us.
fn parse(line: &str) -> Option<Done> {
    let words: Vec<&str> = line.split(' ').collect();
    let [client, _, latency, _, s, us] = words[..] else {
        return None;
    };
    Some(Done {
        client: client.parse().ok()?,
        at: Duration::from_secs(s.parse().ok()?) + Duration::from_micros(us.parse().ok()?),
        latency: Duration::from_micros(latency.parse().ok()?),
    })
}

/// Compares what the server has noted with what pgbench did.
fn check(sums: &[i64], transactions: usize) -> Result<()> {
    if let &[accounts, tellers, branches, history, notes] = sums
        && [accounts, tellers, branches] == [history; 3]
        && usize::try_from(notes) == Ok(transactions)
    {
        return Ok(());
    }
    Err(Error::Workload(format!(
        "after {transactions} transactions the sums of accounts, tellers, branches and notes, \
         and the number of notes, are {sums:?}"
    )))
}

/// What the transactions of a window come to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    count: u32,
    slowest: Duration,
    /// Clients that had done one before it.
    started: Vec<u32>,
}

impl Tally {
    fn of(log: &[Done], (from, to): (Duration, Duration)) -> Self {
        let mut tally = Self::default();
        for done in log {
            if done.at < from {
                tally.started.push(done.client);
            } else if done.at < to {
                tally.count += 1;
                tally.slowest = tally.slowest.max(done.latency);
            }
        }
        tally.started.sort_unstable();
        tally.started.dedup();
        tally
    }

    /// The window begins when all clients are at work.
    fn check(&self, go: &Go) -> Result<()> {
        if self.started.len() == go.clients as usize {
            return Ok(());
        }
        Err(Error::Workload(format!(
            "only {} of {} clients had done a transaction before the window: give more warm-up \
             than {} ms",
            self.started.len(),
            go.clients,
            go.warmup_ms
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(client: u32, ms: u64, latency_ms: u64) -> Done {
        Done {
            client,
            at: Duration::from_millis(ms),
            latency: Duration::from_millis(latency_ms),
        }
    }

    #[test]
    fn a_logged_line_is_read() {
        let at = Duration::from_micros(1_795_721_048_016_260);
        let expected = Done {
            client: 3,
            at,
            latency: Duration::from_micros(12_622),
        };
        assert_eq!(parse("3 17 12622 0 1795721048 16260"), Some(expected));
        // A transaction that failed has a word for its latency.
        for line in ["", "3 17 failed 0 1795721048 16260", "3 17 12622 0 1"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn what_ended_in_the_window_counts() {
        let log = [
            done(0, 99, 50),
            done(1, 100, 20),
            done(0, 199, 7),
            done(0, 200, 90),
        ];
        let tally = Tally::of(
            &log,
            (Duration::from_millis(100), Duration::from_millis(200)),
        );
        assert_eq!((tally.count, tally.slowest), (2, Duration::from_millis(20)));
        let go = |clients| Go {
            workload: "pgbench".into(),
            clients,
            warmup_ms: 100,
            window_ms: 100,
            seed: 1,
        };
        assert!(tally.check(&go(1)).is_ok());
        let error = tally.check(&go(2)).unwrap_err().to_string();
        assert!(error.contains("only 1 of 2 clients"), "{error}");
    }

    #[test]
    fn sums_and_notes_have_to_agree() {
        assert!(check(&[-7, -7, -7, -7, 3], 3).is_ok());
        for sums in [
            &[1, -7, -7, -7, 3],
            &[-7, 1, -7, -7, 3],
            &[-7, -7, 1, -7, 3],
            &[-7, -7, -7, 1, 3],
            &[-7, -7, -7, -7, 4],
        ] {
            assert!(check(sums, 3).is_err(), "{sums:?}");
        }
        assert!(check(&[0; 4], 0).is_err());
    }
}
