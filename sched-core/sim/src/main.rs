//! The `sched-sim` program.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use sched_sim::scenario::Scenario;
use sched_sim::{Error, Result, run};

/// Simulates hosts with many VMs, to compare what a scheduler makes of spinning vCPUs.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  sched-sim check sched-core/sim/scenarios/shootdown.toml
  sched-sim run sched-core/sim/scenarios/shootdown.toml --out results.json
  dense-bench report results.json

docs/simulator.md has every key of a scenario, and what the model leaves out.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a scenario, print its table, and write its results
    Run {
        /// The scenario, TOML
        scenario: PathBuf,
        /// Where the results go, for `dense-bench report`
        #[arg(long)]
        out: Option<PathBuf>,
        /// Samples a variant, instead of the scenario's
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000))]
        seeds: Option<u64>,
    },
    /// Say whether a scenario makes sense
    Check {
        /// The scenario, TOML
        scenario: PathBuf,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run {
            scenario,
            out,
            seeds,
        } => run_file(&scenario, out.as_deref(), seeds),
        Command::Check { scenario } => Scenario::load(&scenario).map(|s| {
            println!(
                "{}: {} vCPUs on {} CPUs",
                s.name,
                s.vcpus(),
                s.host.cpus.get()
            );
        }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sched-sim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_file(path: &Path, out: Option<&Path>, seeds: Option<u64>) -> Result<()> {
    let scenario = Scenario::load(path)?;
    let seeds = seeds.unwrap_or(scenario.seeds.get());
    let bar = progress(run::count(&scenario, seeds));
    let results = run::run(&scenario, seeds, || bar.inc(1));
    bar.finish_and_clear();
    if let Some(out) = out {
        results
            .save(out)
            .map_err(|e| Error::Invalid(e.to_string()))?;
    }
    print!("{}", dense_bench::report::table(&results));
    Ok(())
}

/// Quiet when nobody looks.
fn progress(cells: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} cells, {eta} left");
    match style {
        Ok(style) => ProgressBar::new(cells).with_style(style),
        Err(_) => ProgressBar::hidden(),
    }
}
