//! memcached from Debian with as many threads as vCPUs, and libmemcached's memcslap
//! as load, with as many connections; over a Unix socket, as the guests have no TCP.
//!
//! Each run of the load sets keys and then gets some of them from each thread. After
//! it the server is asked what it did: every get has to have been a hit.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use std::{fs, thread};

use crate::protocol::{Go, Outcome};
use crate::shell::{Program, quiet};
use crate::{Error, Result, repeat, vcpus};

const SERVER: &str = "/usr/bin/memcached";
const LOAD: &str = "/usr/bin/memcslap";
const SOCKET: &str = "/tmp/memcached";
/// How long the server may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);
/// Keys that a run sets, and gets of each thread in it.
const KEYS: u32 = 250;

/// Starts the server; the workload then counts sets and gets.
pub fn prepare() -> Result<impl FnOnce(&Go) -> Result<Outcome>> {
    // memcached looks its user up, and a guest has no users.
    fs::create_dir_all("/etc")
        .and_then(|()| fs::write("/etc/passwd", "root:x:0:0::/:/bin/sh\n"))
        .map_err(Error::os("write /etc/passwd"))?;
    let threads = vcpus().to_string();
    let server = Program::start(
        SERVER,
        &["-u", "root", "-s", SOCKET, "-t", &threads, "-m", "32"],
    )?;
    wait_for_listening()?;
    Ok(move |go: &Go| {
        let outcome = load(go);
        server.kill();
        outcome
    })
}

fn load(go: &Go) -> Result<Outcome> {
    let operations = f64::from(KEYS + KEYS * go.clients);
    repeat::run(go, (operations / 1e3, "k ops/s"), |number, _| {
        let (threads, keys) = (go.clients.to_string(), KEYS.to_string());
        let args = ["--test=get", "--servers", SOCKET, "--concurrency", &threads];
        let more = ["--execute-number", &keys, "--initial-load", &keys];
        quiet(LOAD, &[&args[..], &more].concat())?;
        check(number + 1, go.clients)
    })
}

/// Waits until the server listens.
fn wait_for_listening() -> Result<()> {
    let started = Instant::now();
    while !fs::exists(SOCKET).unwrap_or(false) || UnixStream::connect(SOCKET).is_err() {
        if started.elapsed() > PATIENCE {
            return Err(Error::Workload("memcached does not listen".into()));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Compares what the server has done with what was asked of it in `runs`.
fn check(runs: u32, threads: u32) -> Result<()> {
    let stats = stats().map_err(Error::os("ask memcached"))?;
    let sets = u64::from(runs) * u64::from(KEYS);
    let gets = sets * u64::from(threads);
    for (name, expected) in [("cmd_set", sets), ("cmd_get", gets), ("get_hits", gets)] {
        let value = value(&stats, name);
        if value != Some(expected) {
            return Err(Error::Workload(format!(
                "memcached's {name} is {value:?}, not {expected}"
            )));
        }
    }
    Ok(())
}

fn stats() -> std::io::Result<Vec<String>> {
    let mut server = UnixStream::connect(SOCKET)?;
    server.write_all(b"stats\r\n")?;
    let lines = BufReader::new(server).lines();
    let of_answer = |line: &std::io::Result<String>| line.as_ref().is_ok_and(|l| l != "END");
    lines.take_while(of_answer).collect()
}

/// The value of a line as `STAT cmd_get 500`.
fn value(stats: &[String], name: &str) -> Option<u64> {
    stats.iter().find_map(|line| {
        let value = line.strip_prefix("STAT ")?.strip_prefix(name)?;
        value.strip_prefix(' ')?.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_found_by_their_whole_name() {
        let stats = ["STAT cmd_get_more 1", "STAT cmd_get 12"].map(String::from);
        assert_eq!(value(&stats, "cmd_get"), Some(12));
        assert_eq!(value(&stats, "cmd"), None);
    }
}
