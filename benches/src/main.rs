//! The `dense-bench` program.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Parser, Subcommand};
use dense_bench::cell::Folders;
use dense_bench::host_init::{self, STATE, read_json};
use dense_bench::results::Results;
use dense_bench::spec::CellOutput;
use dense_bench::{Error, Result, cell, report};
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
    /// Run one cell on this host, as root, and print its output as JSON
    Cell {
        /// The cell, as JSON: docs/measuring.md
        spec: PathBuf,
        /// Where the guests' disks go; a tmpfs
        #[arg(long, default_value = "/dev/shm")]
        scratch: PathBuf,
    },
    /// Print the table of a results file
    Report {
        /// A results.json
        results: PathBuf,
    },
}

fn main() -> ExitCode {
    if std::process::id() == 1 {
        host_init::main();
    }
    let done = match Cli::parse().command {
        Command::Cell { spec, scratch } => run_cell(&spec, &scratch),
        Command::Report { results } => Results::load(&results).map(|r| {
            print!("{}", report::table(&r));
            ExitCode::SUCCESS
        }),
    };
    done.unwrap_or_else(|error| {
        eprintln!("dense-bench: {error}");
        ExitCode::FAILURE
    })
}

fn run_cell(spec: &Path, scratch: &Path) -> Result<ExitCode> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(Error::io("watch for signals in", "this process"))?;
    }
    let folders = Folders {
        scratch,
        state: Path::new(STATE),
    };
    let output = cell::run(&read_json(spec)?, folders, &stop);
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
