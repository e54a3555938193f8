//! `scx_vmfirst`: KVM's vCPUs first, as a sched_ext scheduler on a kernel as it comes.
//!
//! [`machine`] knows what the host has, [`load`] puts `bpf/` into its kernel, [`run`] stays
//! until the end, [`record`] keeps why that came, and [`counters`] reads what is counted.

mod counters;
mod error;
mod load;
mod machine;
mod record;
mod run;
mod stat;
mod status;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use vmfirst_host::read::Root;
use vmfirst_host::usage::not_understood;

use error::Error;

const HELP: &str = "\
Examples:
  scx_vmfirst run                  as root: schedules all threads until it is stopped
  scx_vmfirst stat --watch         whom yields went to, who waited, shares of VMs
  scx_vmfirst status               does it run, and why did it last end

It takes a kernel with sched_ext (Debian's 7.x from backports, Ubuntu from 25.04 on, Fedora),
KVM loaded, and root. Nothing is changed that does not end with it: no guest, no VMM, no file.";

/// KVM's vCPUs first on an unpatched kernel: a sched_ext scheduler
#[derive(Debug, Parser)]
#[command(name = "scx_vmfirst", version, after_help = HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load the scheduler and stay until it ends
    #[command(after_help = run::HELP)]
    Run(run::Options),
    /// Show whether it runs and why it last ended
    Status(status::Options),
    /// Show what it counts
    #[command(after_help = stat::HELP)]
    Stat(stat::Options),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_understood("scx_vmfirst", error),
    };
    let root = Root::default();
    let done = match cli.command {
        Command::Run(options) => options.run(&root),
        Command::Status(options) => options.run(&root),
        Command::Stat(options) => options.run(&root),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scx_vmfirst: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints; a reader that has gone is no error.
fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::Io {
            what: "write to standard output".into(),
            source: error,
        }),
        _ => Ok(()),
    }
}
