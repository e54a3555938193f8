//! The host's half: makes the disks, serves the networks, runs the VMM to its end, and
//! looks at what is left.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::clock::Clocks;
use crate::error::{Error, Result};
use crate::net::{self, Sum};
use crate::{PINGS, STREAM_DOWN, STREAM_UP};

/// Bytes of a disk.
const DISK: u64 = 16 << 20;
/// How long to wait for what is over when the VMM has ended.
const PATIENCE: Duration = Duration::from_secs(1);

/// What came of it.
#[derive(Debug, serde::Serialize)]
pub struct Verdict {
    /// The VMM's exit status; none if a signal ended it.
    code: Option<i32>,
    /// Each disk's checksum.
    disks: Vec<u32>,
    /// From the guest.
    up: Sum,
    /// To the guest.
    down: Sum,
    /// Answered pings.
    pings: u64,
    /// What TCP had to do again.
    tcp: BTreeMap<String, u64>,
}

/// Serves a guest whose load lasts so long; `command` is the VMM with its arguments.
pub fn run(
    time: Duration,
    deadline: Duration,
    disks: &[PathBuf],
    command: &[String],
) -> Result<Verdict> {
    for disk in disks {
        File::create(disk)
            .and_then(|file| file.set_len(DISK))
            .map_err(Error::system(format!("create {}", disk.display())))?;
    }
    net::leave_repairs_to_timers()?;
    let clocks = Arc::new(Clocks::new(deadline));
    let clock = clocks.clock("receive on the host");
    let up = serve(move || net::receive(net::accept(STREAM_UP)?, &clock));
    let clock = clocks.clock("send on the host");
    let down = serve(move || {
        let stream = net::accept(STREAM_DOWN)?;
        let end = Instant::now() + time;
        net::send(stream, &clock, || Instant::now() < end)
    });
    let answered = Arc::new(AtomicU64::new(0));
    let count = answered.clone();
    let socket = net::bind(PINGS)?;
    let pings = serve(move || net::answer(&socket, &count));

    let code = vmm(command)?;
    // Answering ends only if it fails.
    if let Ok(Err(error)) = pings.try_recv() {
        return Err(error);
    }
    Ok(Verdict {
        code,
        disks: disks
            .iter()
            .map(|disk| checksum(disk))
            .collect::<Result<_>>()?,
        up: ended(&up, "the stream from the guest")?,
        down: ended(&down, "the stream to the guest")?,
        pings: answered.load(Ordering::Relaxed),
        tcp: net::repairs()?,
    })
}

/// Serves in a thread of its own.
fn serve<T: Send + 'static>(
    body: impl FnOnce() -> Result<T> + Send + 'static,
) -> Receiver<Result<T>> {
    let (tell, told) = channel();
    // Whoever has stopped listening doesn't want to know.
    thread::spawn(move || tell.send(body()));
    told
}

fn ended<T>(what: &Receiver<Result<T>>, name: &str) -> Result<T> {
    let late = |_| Error::Late {
        what: name.into(),
        took: PATIENCE,
    };
    what.recv_timeout(PATIENCE).map_err(late)?
}

fn vmm(command: &[String]) -> Result<Option<i32>> {
    let [program, args @ ..] = command else {
        return Ok(None);
    };
    let status = Command::new(program).args(args).status();
    let status = status.map_err(Error::system(format!("start {program}")))?;
    Ok(status.code())
}

fn checksum(file: &Path) -> Result<u32> {
    let data = fs::read(file).map_err(Error::system(format!("read {}", file.display())))?;
    Ok(crc32fast::hash(&data))
}
