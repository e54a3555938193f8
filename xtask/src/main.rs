//! The `cargo xtask` program.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dense_record::chosen::HostKernel;
use testbed::proc::Cancel;
use testbed::workshop::Workshop;
use testbed::{deb, each};
use xtask::bench::BenchArgs;
use xtask::cost::CostArgs;
use xtask::{Error, bench, cost, report, test};

/// Builds, tests and measures vmfirst.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare the stock and the patched kernel in the emulated host, and print the table
    #[command(
        after_help = "Missing Debian packages are installed, slow builds are kept in \
        ~/.cache/vmfirst (VMFIRST_CACHE). Ctrl-C stops at any time; --resume goes on.\n\n\
        Examples:\n  cargo xtask bench\n  cargo xtask bench --only 'dbench/*' --seeds 2 --out /tmp/try\n  \
        cargo xtask bench --plan article --shard 1/4 --out part1\n  \
        cargo xtask bench --replay benches/results/quick.json#dbench/2x4on4/q3000/stock/s1"
    )]
    Bench(BenchArgs),
    /// Measure what vmm and QEMU microvm cost by themselves in the emulated host
    #[command(
        after_help = "Start, first process, memory and idle wake-ups of each, on the same \
        kernel and initrd, in virtual time (docs/vmm-cost.md).\n\n\
        Examples:\n  cargo xtask cost --seeds 1\n  \
        cargo xtask cost --out benches/results/vmm-cost.json && cargo xtask report\n  \
        cargo xtask cost --here --runs 20 --out target/vmm-cost-here.json"
    )]
    Cost(CostArgs),
    /// Run everything that can fail
    Test {
        /// Only what needs no emulator
        #[arg(long)]
        quick: bool,
    },
    /// Build the host kernels, stock and patched, and print where they are
    Kernel {
        /// Instead, prove that each patch of the series builds, boots and passes its
        /// KUnit tests alone (half an hour)
        #[arg(long)]
        each: bool,
        /// Instead, build packages of the series on Debian's own configuration, for apt
        /// (an hour)
        #[arg(long, conflicts_with = "each")]
        deb: bool,
    },
    /// Make the folder that `dense-bench run` needs on another host
    Images {
        /// The folder; it is made if it is not there
        folder: PathBuf,
    },
    /// Make packages for Debian 12 and later: vmfirst (vmm, the operator's program) and
    /// vmfirst-bench
    Deb {
        /// Where they go
        #[arg(long, default_value = "target/deb", value_name = "DIR")]
        out: PathBuf,
    },
    /// Put the tables of the published results into README.md and the pages of docs/
    Report {
        /// Publish these results first
        results: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            match error {
                Error::Testbed(testbed::Error::Cancelled) => ExitCode::from(130),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn run(command: Command) -> Result<(), Error> {
    let cancel = Cancel::on_signals()?;
    match command {
        Command::Bench(args) => bench::run(&args, cancel),
        Command::Cost(args) => cost::run(&args, cancel),
        Command::Test { quick } => test::run(quick, cancel),
        Command::Kernel { each, deb } => {
            let workshop = Workshop::open(cancel)?;
            if deb {
                for file in workshop.kernel_packages()?.files()? {
                    println!("{}", file.display());
                }
                return Ok(());
            }
            if each {
                return Ok(each::run(&workshop)?);
            }
            for kernel in HostKernel::OURS {
                let kernel = workshop.host_kernel(kernel)?;
                println!("{}", kernel.dir.display());
            }
            Ok(())
        }
        Command::Images { folder } => {
            Workshop::open(cancel)?.images(&folder)?;
            println!("{}", folder.join("dense-bench").display());
            Ok(())
        }
        Command::Deb { out } => {
            for package in deb::build(&Workshop::open(cancel.clone())?, &out, &cancel)? {
                println!("{}", package.display());
            }
            Ok(())
        }
        Command::Report { results } => report::run(results.as_deref()),
    }
}
