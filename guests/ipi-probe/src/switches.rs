//! Two threads that wake each other on one CPU: what a switch costs when nobody yields.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Instant;

use crate::error::Error;
use crate::vm::pin;

/// Before anything is counted.
const WARM_UP: u64 = 100;

/// Plays `rounds` rounds of ping and pong. A round's time has the mean, ticks of the
/// timer and all, and the least, which has none.
pub fn run(rounds: u64) -> Result<serde_json::Value, Error> {
    let failed = |e| Error::setup("wake a thread", e);
    let (mut ours, mut theirs) = UnixStream::pair().map_err(failed)?;
    pin(0)?;
    // It ends when this side is closed. Threads inherit the affinity.
    let echo = thread::spawn(move || {
        let mut byte = [0];
        while theirs.read_exact(&mut byte).is_ok() && theirs.write_all(&byte).is_ok() {}
    });
    let mut round = || {
        let begin = Instant::now();
        ours.write_all(&[1])?;
        ours.read_exact(&mut [0])?;
        Ok(begin.elapsed().as_nanos() as u64)
    };
    for _ in 0..WARM_UP {
        round().map_err(failed)?;
    }
    let (mut sum, mut least) = (0, u64::MAX);
    for _ in 0..rounds {
        let ns = round().map_err(failed)?;
        sum += ns;
        least = least.min(ns);
    }
    drop(ours);
    echo.join().map_err(|_| Error::Panic)?;
    Ok(serde_json::json!({
        "rounds": rounds,
        "mean_ns": sum as f64 / rounds.max(1) as f64,
        "least_ns": least,
    }))
}
