//! The `sched-sim` program.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dense_report::results::Results;
use indicatif::{ProgressBar, ProgressStyle};
use sched_sim::scenario::Scenario;
use sched_sim::{Error, Result, calibrate, run, scale, tables};

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
    /// Simulate what the testbed has measured, and compare
    Calibrate {
        /// What was measured: results.json of the testbed; of a cell that several have the
        /// last one counts
        #[arg(default_value = "benches/results/calibrated.json")]
        measured: Vec<PathBuf>,
        /// Where all cells that were measured go, in one file
        #[arg(long)]
        merged: Option<PathBuf>,
        /// Where WORKLOAD.toml of each workload is
        #[arg(long, default_value = "sched-core/sim/scenarios/calibrate")]
        scenarios: PathBuf,
        /// Where the results go
        #[arg(long)]
        out: Option<PathBuf>,
        /// Samples a variant
        #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=10_000))]
        seeds: u64,
    },
    /// Measure what an event costs on hosts of 16 to 1,024 CPUs, and a virtual minute of
    /// large ones, on one core
    Scale {
        /// Where the figures go, JSON
        #[arg(long)]
        out: Option<PathBuf>,
        /// Where the plot goes, SVG
        #[arg(long)]
        plot: Option<PathBuf>,
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
        Command::Calibrate {
            measured,
            merged,
            scenarios,
            out,
            seeds,
        } => {
            let to = [merged.as_deref(), out.as_deref()];
            calibrate_files(&measured, &scenarios, to, seeds)
        }
        Command::Scale { out, plot } => measure_scale(out.as_deref(), plot.as_deref()),
        Command::Check { scenario } => Scenario::load(&scenario).map(|s| {
            println!(
                "{}: {} vCPUs on {} CPUs",
                s.name.as_ref(),
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
    writable(out)?;
    let seeds = seeds.unwrap_or(scenario.seeds.get());
    let bar = progress(run::count(&scenario, seeds));
    let results = run::run(&scenario, seeds, || bar.inc(1));
    bar.finish_and_clear();
    if let Some(out) = out {
        results
            .save(out)
            .map_err(|e| Error::Invalid(e.to_string()))?;
    }
    print!("{}", dense_report::table(&results));
    Ok(())
}

fn calibrate_files(
    from: &[PathBuf],
    folder: &Path,
    [merged, out]: [Option<&Path>; 2],
    seeds: u64,
) -> Result<()> {
    let measured: Result<Vec<Results>> = from.iter().map(|path| load(path)).collect();
    let measured = calibrate::merge(measured?, folder)?;
    writable(merged)?;
    writable(out)?;
    save(&measured, merged)?;
    let bar = progress(tables::values(&measured).len() as u64);
    let simulated = calibrate::simulate(&measured, folder, seeds, || bar.inc(1))?;
    bar.finish_and_clear();
    save(&simulated, out)?;
    print!("{}", calibrate::table(&measured, &simulated));
    Ok(())
}

fn measure_scale(out: Option<&Path>, plot: Option<&Path>) -> Result<()> {
    writable(out)?;
    writable(plot)?;
    let bar = progress((scale::CPUS.len() + scale::COUNT) as u64);
    let mut points = Vec::new();
    for cpus in scale::CPUS {
        points.push(scale::measure(cpus, "vmfirst", 3_000_000)?);
        bar.inc(1);
    }
    let minutes = scale::minutes(|| bar.inc(1))?;
    bar.finish_and_clear();
    let scale = scale::Scale { points, minutes };
    if let Some(path) = out {
        let json = serde_json::to_string_pretty(&scale);
        let json = json.map_err(|e| Error::Invalid(e.to_string()))?;
        std::fs::write(path, json + "\n").map_err(|source| Error::Io {
            what: "write",
            path: path.into(),
            source,
        })?;
    }
    print!("{}", scale::table(&scale.points));
    print!("\n{}", scale::minutes_table(&scale.minutes));
    plot.map_or(Ok(()), |path| scale::plot(&scale.points, path))
}

fn load(path: &Path) -> Result<Results> {
    Results::load(path).map_err(|e| Error::Invalid(e.to_string()))
}

fn save(results: &Results, out: Option<&Path>) -> Result<()> {
    let saved = out.map_or(Ok(()), |out| results.save(out));
    saved.map_err(|e| Error::Invalid(e.to_string()))
}

/// Before minutes of work: is there a folder for the result?
fn writable(out: Option<&Path>) -> Result<()> {
    let folder = out.map(|path| match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    });
    match folder {
        Some(folder) if !folder.is_dir() => {
            let what = format!("no folder {}: create it first", folder.display());
            Err(Error::Invalid(what))
        }
        _ => Ok(()),
    }
}

/// Quiet when nobody looks.
fn progress(cells: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} cells, {eta} left");
    match style {
        Ok(style) => ProgressBar::new(cells).with_style(style),
        Err(_) => ProgressBar::hidden(),
    }
}
