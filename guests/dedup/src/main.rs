//! A deduplicating archiver that runs for a fixed time: the structure of PARSEC's
//! dedup, a known victim of vCPUs that wait for each other.
//!
//! `pipeline` has the stages, `archive` the format and its check.

mod archive;
mod input;
mod pipeline;
mod queue;
mod table;

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use serde::Serialize;

use pipeline::Pipeline;

/// What goes wrong.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot map {bytes} bytes: {source}; give the guest more memory")]
    Map {
        bytes: usize,
        source: std::io::Error,
    },
    #[error("cannot start a thread: {0}; use fewer with --threads")]
    Thread(std::io::Error),
    #[error("wrong output: {0}")]
    Wrong(String),
}

type Result<T> = std::result::Result<T, Error>;

/// Deduplicate and compress a generated input again and again for a fixed time.
///
/// Prints `begin` and `end` at the window's ends, then one line of JSON: bytes of
/// input done in the window and its length in s. The archive is unpacked and
/// compared with the input; if it is wrong the exit status is 1.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example:\n  dedup --threads 4 --warmup-ms 1000 --window-ms 2000 --seed 1"
)]
struct Args {
    /// Threads of each of the three middle stages; two more read and write
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// From the start to the window's begin
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    warmup_ms: u64,
    /// The window's length
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    window_ms: u64,
    /// What the input is made from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The input's size in KiB; half of it is duplicate
    #[arg(long, default_value_t = 2048, value_name = "KIB", value_parser = clap::value_parser!(u32).range(256..=1 << 20))]
    input_kib: u32,
}

/// What was measured and checked.
#[derive(Debug, Serialize)]
struct Report {
    /// Bytes of input done in the window.
    bytes: u64,
    /// The window's length in s.
    seconds: f64,
    /// How often the whole input was archived.
    passes: u64,
    /// Share of the input's bytes that was found to be duplicate.
    duplicate_share: f64,
    /// The archive's size to the input's.
    packed_share: f64,
}

fn main() {
    // A thread that is gone would leave the others waiting for ever.
    std::panic::set_hook(Box::new(|info| {
        eprintln!("dedup: {info}");
        std::process::exit(1);
    }));
    if let Err(error) = run(&Args::parse()) {
        fail(&error);
    }
}

/// Ends the program, from whichever thread.
fn fail(error: &Error) -> ! {
    eprintln!("dedup: {error}");
    std::process::exit(1);
}

fn run(args: &Args) -> Result<()> {
    let started = Instant::now();
    let input = input::generate(args.input_kib as usize * 1024, args.seed);
    let pipeline = Pipeline::new(&input, args.threads as usize);
    let sleep_until_ms =
        |ms| thread::sleep(Duration::from_millis(ms).saturating_sub(started.elapsed()));
    let done = || (Instant::now(), pipeline.done.load(Ordering::Relaxed));
    let (archive, begin, end) = thread::scope(|scope| {
        let writer = pipeline.start(scope)?;
        sleep_until_ms(args.warmup_ms);
        let begin = done();
        println!("begin");
        sleep_until_ms(args.warmup_ms.saturating_add(args.window_ms));
        let end = done();
        println!("end");
        pipeline.stop.store(true, Ordering::Relaxed);
        match writer.join() {
            Ok(archive) => Ok((archive, begin, end)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    let unpacked = archive::unpack(archive.bytes())?;
    if unpacked.data != input {
        return Err(Error::Wrong("the archive holds something else".into()));
    }
    let size = input.len() as f64;
    let report = Report {
        bytes: end.1 - begin.1,
        seconds: (end.0 - begin.0).as_secs_f64(),
        passes: archive.passes(),
        duplicate_share: unpacked.duplicate as f64 / size,
        packed_share: archive.bytes().len() as f64 / size,
    };
    // The input's own duplicates, less what is lost where copies begin and end.
    if report.duplicate_share < input::DUPLICATE_SHARE / 2.0 {
        let share = report.duplicate_share;
        return Err(Error::Wrong(format!("only {share} found duplicate")));
    }
    match serde_json::to_string(&report) {
        Ok(json) => println!("{json}"),
        Err(error) => return Err(Error::Wrong(error.to_string())),
    }
    Ok(())
}
