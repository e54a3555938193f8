//! Load on a guest's disks and networks that loses no interrupt and no byte unseen.
//!
//! One program is both halves: in the guest it writes, reads, sends, receives and pings;
//! on the host it makes the disks, serves the networks and runs the VMM. Both tell
//! checksums of everything, for tests/tests/load.rs to compare.

mod clock;
mod data;
mod disk;
mod error;
mod guest;
mod host;
mod interrupts;
mod net;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use serde::Serialize;

use clock::Clocks;
use error::Result;

/// Where the host answers pings: on the first network, with nothing else on it.
const PINGS: &str = "10.0.1.1:7";
/// Where the host takes and gives a stream: on the second.
const STREAM_UP: &str = "10.0.2.1:5001";
const STREAM_DOWN: &str = "10.0.2.1:5002";

/// Loads a guest's disks and networks, and says whether everything came, and in time.
///
/// Examples:
///   guest-load host --ms 1000 --disk a --disk b --disk c -- vmm run ... --disk a ...
///   guest-load guest --ms 1000
#[derive(Debug, Parser)]
#[command(version, verbatim_doc_comment)]
struct Args {
    #[command(subcommand)]
    half: Half,
    /// How long the load lasts
    #[arg(long, global = true, value_name = "MS", default_value_t = 1000)]
    ms: u64,
    /// How long a request, a packet's answer or a piece of a stream may take
    #[arg(long, global = true, value_name = "MS", default_value_t = 100)]
    deadline_ms: u64,
}

#[derive(Debug, Subcommand)]
enum Half {
    /// In the guest, whose addresses are set up: load on vda to vdc and on two networks
    Guest,
    /// On the host: make the disks, serve 10.0.1.1 and 10.0.2.1, run the VMM
    Host {
        /// A disk's image, in the guest's order
        #[arg(long = "disk", value_name = "FILE")]
        disks: Vec<PathBuf>,
        /// The VMM and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

/// A load that is under way.
struct Run {
    clocks: Arc<Clocks>,
    end: Instant,
    failed: AtomicBool,
    bytes: AtomicU64,
}

impl Run {
    fn new(time: Duration, deadline: Duration) -> Self {
        Self {
            clocks: Arc::new(Clocks::new(deadline)),
            end: Instant::now() + time,
            failed: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
        }
    }

    /// Whether it is not over yet.
    fn goes_on(&self) -> bool {
        Instant::now() < self.end && !self.failed.load(Ordering::Relaxed)
    }

    /// One of the threads has ended; if it failed, the others end too.
    fn ends<T>(&self, result: Result<T>) -> Result<T> {
        self.failed.fetch_or(result.is_err(), Ordering::Relaxed);
        result
    }

    fn count(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

fn main() -> ExitCode {
    let Args {
        half,
        ms,
        deadline_ms,
    } = Args::parse();
    let [time, deadline] = [ms, deadline_ms].map(Duration::from_millis);
    match half {
        Half::Guest => tell("GUEST", guest::run(time, deadline)),
        Half::Host { disks, command } => tell("HOST", host::run(time, deadline, &disks, &command)),
    }
}

fn tell(who: &str, verdict: Result<impl Serialize>) -> ExitCode {
    let json = verdict.map(|verdict| serde_json::to_string(&verdict));
    match json {
        Ok(Ok(json)) => {
            println!("LOAD {who} {json}");
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    println!("LOAD FAILED {error}");
    ExitCode::FAILURE
}
