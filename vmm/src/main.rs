//! The `vmm` program.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use vmm::config::{Config, RunArgs};
use vmm::exit::End;
use vmm::{builder, run};

/// Launches virtual machines on KVM.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a machine until it ends; its serial console is on standard input and output
    #[command(
        after_help = "Exit status: 0 the guest powered off; 1 an error on the host; \
        2 a wrong command line; 3 the guest asked for a reboot; 4 the guest crashed; \
        5 its kernel panicked; 128+N ended by signal N.\n\n\
        Example: vmm run --kernel bzImage --initrd rootfs.cpio --disk data.img --cpus 4 --mem 512M"
    )]
    Run(RunArgs),
}

fn main() -> ExitCode {
    let Command::Run(args) = Cli::parse().command;
    match launch(args) {
        Ok(end) => end.code(),
        Err(error) => {
            eprintln!("vmm: {error}");
            ExitCode::FAILURE
        }
    }
}

fn launch(args: RunArgs) -> vmm::Result<End> {
    run::run(builder::build(Config::try_from(args)?)?)
}
