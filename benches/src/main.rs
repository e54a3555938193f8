//! The `dense-bench` program.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use clap::{Parser, Subcommand};
use dense_agent::cell::{Console, STATE, same_cell};
use dense_agent::{cell, third};
use dense_bench::run::{RunArgs, run};
use dense_record::json::read_json;
use dense_record::measured::CellOutput;
use dense_record::{Error, Result};
use dense_report as report;
use dense_report::compare::{CompareArgs, compare};
use dense_report::results::Results;
use signal_hook::consts::{SIGINT, SIGTERM};

/// Measures many VMs on few cores.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a plan on this host, as root, and print the table
    #[command(
        after_help = "Every knob that is changed is restored, also by the next start after a \
        crash. Ctrl-C stops at any time; --resume goes on.\n\n\
        Examples:\n  dense-bench run quick\n  dense-bench run article --shard 1/4 --out part1\n  \
        dense-bench run my.toml --only 'dedup/*' --seeds 3\n  \
        dense-bench run --replay results.json#dbench/2x4on4/q0/stock/s1"
    )]
    Run(Box<RunArgs>),
    /// Run one cell on this host, as root, and print its output as JSON
    Cell {
        /// The cell, as JSON: docs/measuring.md
        spec: PathBuf,
        /// Where the guests' disks go; a tmpfs
        #[arg(long, default_value = "/dev/shm")]
        scratch: PathBuf,
        /// Where changes to the host are noted; one a host
        #[arg(long, default_value = STATE)]
        state: PathBuf,
    },
    /// Print the table of results; several files or folders, such as shards, become one
    #[command(after_help = "Examples:\n  dense-bench report results.json\n  \
        dense-bench report part1 part2 --out whole    # results.json, report.html, report.md\n  \
        dense-bench report --compare old/results.json new/results.json")]
    Report {
        /// Files, or folders with a results.json
        #[arg(required_unless_present = "compare")]
        results: Vec<PathBuf>,
        /// Write results.json, report.html and report.md into this folder
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        #[command(flatten)]
        compare: CompareArgs,
    },
    /// Compute until standard input closes: the third party of a cell
    #[command(name = third::ARGUMENT, hide = true)]
    ThirdParty,
    /// Write man pages or completions, for packages
    #[cfg(feature = "pages")]
    #[command(hide = true)]
    Generate(vmfirst_host::pages::Generate),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => run_plan(&args),
        Command::Cell {
            spec,
            scratch,
            state,
        } => run_cell(&spec, &scratch, &state),
        Command::Report {
            results,
            out,
            compare: args,
        } => match &args.compare[..] {
            [] => show(&results, out.as_deref()),
            _ => compare(&args).map(|(text, verdict)| {
                print!("{text}");
                ExitCode::from(verdict.status())
            }),
        },
        Command::ThirdParty => third::main(),
        #[cfg(feature = "pages")]
        Command::Generate(pages) => generate(pages),
    };
    done.unwrap_or_else(|error| {
        eprintln!("dense-bench: {error}");
        ExitCode::FAILURE
    })
}

#[cfg(feature = "pages")]
fn generate(pages: vmfirst_host::pages::Generate) -> Result<ExitCode> {
    let written = pages.run(<Cli as clap::CommandFactory>::command());
    let completions = written.map_err(|error| Error::Invalid(error.to_string()))?;
    print!("{}", String::from_utf8_lossy(&completions));
    Ok(ExitCode::SUCCESS)
}

fn exit_code(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// A flag that Ctrl-C and SIGTERM set.
fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(Error::io("watch for signals in", "this process"))?;
    }
    Ok(stop)
}

fn run_plan(args: &RunArgs) -> Result<ExitCode> {
    let stop = stop_on_signals()?;
    match run(args, &stop) {
        Err(error) if stop.load(Ordering::Relaxed) => {
            eprintln!("dense-bench: {error}");
            Ok(ExitCode::from(130))
        }
        done => done.map(exit_code),
    }
}

fn run_cell(spec: &Path, scratch: &Path, state: &Path) -> Result<ExitCode> {
    let stop = stop_on_signals()?;
    let console: Console = Arc::new(Mutex::new(std::io::stderr()));
    let host = cell::Host {
        booted: same_cell,
        scratch,
        state,
        console: &console,
        stop: &stop,
    };
    let output = cell::run(&read_json(spec)?, host);
    let json = serde_json::to_string(&output).map_err(|e| Error::Invalid(e.to_string()))?;
    println!("{json}");
    Ok(match output {
        CellOutput::Ok(_) => ExitCode::SUCCESS,
        CellOutput::Failed { error } => {
            eprintln!("dense-bench: {error}");
            ExitCode::FAILURE
        }
    })
}

fn show(results: &[PathBuf], out: Option<&Path>) -> Result<ExitCode> {
    let results = Results::load_all(results)?;
    if let Some(out) = out {
        std::fs::create_dir_all(out).map_err(Error::io("create", out))?;
        results.save(&out.join("results.json"))?;
        report::write_all(&results, out)?;
    }
    print!("{}", report::table(&results));
    Ok(ExitCode::SUCCESS)
}
