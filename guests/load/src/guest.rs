//! The guest's half: all loads at once, then what came of them.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::process::exit;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::clock::{Clocks, Took};
use crate::disk::Part;
use crate::error::{Error, Result};
use crate::interrupts::{self, Line};
use crate::net::{self, Sum};
use crate::{PINGS, Run, STREAM_DOWN, STREAM_UP};

/// Disks, and how many threads have requests under way on each. Where it is one, each
/// request's interrupt counts: no other comes to its help.
const DISKS: [(&str, u64); 3] = [("/dev/vda", 1), ("/dev/vdb", 1), ("/dev/vdc", 6)];
/// Threads that compute and sleep in turn, so that every vCPU has work and timers.
const SLEEPERS: usize = 4;
/// For how long they do either.
const NAP: Duration = Duration::from_micros(500);
/// How often the watchdog looks.
const LOOK: Duration = Duration::from_millis(20);

/// What came of it.
#[derive(Debug, serde::Serialize)]
pub struct Verdict {
    /// How long the load lasted.
    seconds: f64,
    /// How many CPUs there are.
    cpus: usize,
    /// What was written to and read from disks in bytes.
    disk_bytes: u64,
    /// Each disk's checksum, as read back.
    disks: Vec<u32>,
    /// To the host.
    up: Sum,
    /// From the host.
    down: Sum,
    /// Answered pings.
    pings: u64,
    /// What TCP had to do again.
    tcp: BTreeMap<String, u64>,
    /// The devices' interrupts.
    interrupts: BTreeMap<String, Line>,
    /// How long operations took.
    took: BTreeMap<String, Took>,
}

/// Runs all loads for so long.
pub fn run(time: Duration, deadline: Duration) -> Result<Verdict> {
    net::leave_repairs_to_timers()?;
    let run = Run::new(time, deadline);
    let mut parts = open()?;
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let begin = Instant::now();
    let clocks = run.clocks.clone();
    thread::spawn(move || watch(&clocks));
    let (up, down, pings) = thread::scope(|scope| {
        let mut others = Vec::new();
        for (seed, part) in (0..).zip(&mut parts) {
            let run = &run;
            others.push(scope.spawn(move || run.ends(part.load(run, seed))));
        }
        for _ in 0..SLEEPERS {
            others.push(scope.spawn(|| run.ends(nap(&run))));
        }
        others.push(scope.spawn(|| run.ends(interrupts::move_around(&run, cpus))));
        let up = scope.spawn(|| run.ends(stream_up(&run)));
        let down = scope.spawn(|| run.ends(stream_down(&run)));
        let pings = scope.spawn(|| run.ends(ping(&run)));
        for other in others {
            join(other)?;
        }
        Ok((join(up)?, join(down)?, join(pings)?))
    })?;
    let seconds = begin.elapsed().as_secs_f64();
    Ok(Verdict {
        seconds,
        cpus,
        disk_bytes: run.bytes(),
        disks: check(&mut parts, &run)?,
        up,
        down,
        pings,
        tcp: net::repairs()?,
        interrupts: interrupts::lines()?,
        took: run.clocks.took(),
    })
}

fn join<T>(thread: thread::ScopedJoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| Error::Panic)?
}

fn open() -> Result<Vec<Part>> {
    let parts = (0..).zip(DISKS).flat_map(|(disk, (path, threads))| {
        (0..threads).map(move |number| Part::open(Path::new(path), disk, number, threads))
    });
    parts.collect()
}

/// Reads all disks back; their checksums.
fn check(parts: &mut [Part], run: &Run) -> Result<Vec<u32>> {
    let mut parts = parts.iter_mut();
    let mut sums = Vec::new();
    for (_, threads) in DISKS {
        let mut crc = crc32fast::Hasher::new();
        for part in parts.by_ref().take(threads as usize) {
            part.check(run, &mut crc)?;
        }
        sums.push(crc.finalize());
    }
    Ok(sums)
}

fn nap(run: &Run) -> Result<()> {
    let clock = run.clocks.clock("sleep");
    while run.goes_on() {
        clock.time(|| {
            sleep(NAP);
            Ok(())
        })?;
        let until = Instant::now() + NAP;
        while black_box(Instant::now()) < until {}
    }
    Ok(())
}

fn stream_up(run: &Run) -> Result<Sum> {
    let clock = run.clocks.clock("send");
    net::send(net::connect(STREAM_UP, &clock)?, &clock, || run.goes_on())
}

fn stream_down(run: &Run) -> Result<Sum> {
    let clock = run.clocks.clock("receive");
    net::receive(net::connect(STREAM_DOWN, &clock)?, &clock)
}

fn ping(run: &Run) -> Result<u64> {
    let clock = run.clocks.clock("ping");
    // Whoever is late is told so by the clock, not by the socket.
    let patience = 2 * run.clocks.deadline();
    net::ping(PINGS, &clock, patience, || run.goes_on())
}

/// Ends the program when an operation doesn't come back.
fn watch(clocks: &Clocks) {
    loop {
        sleep(LOOK);
        if let Some(error) = clocks.overdue() {
            println!("LOAD FAILED {error}, and goes on");
            println!("LOAD INTERRUPTS {:?}", interrupts::lines());
            exit(1);
        }
    }
}
