//! The command line: one file a subcommand.

mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use vmm::log::Format;

/// Launches virtual machines on KVM.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Messages on standard error as lines of JSON, with the events of a machine's life
    #[arg(long, global = true)]
    log_json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a machine until it ends; its serial console is on standard input and output
    #[command(after_help = run::HELP)]
    Run(Box<run::Run>),
}

impl Cli {
    /// Does what was asked for.
    pub fn run(self) -> ExitCode {
        vmm::log::start(match self.log_json {
            true => Format::Json,
            false => Format::Text,
        });
        let done = match self.command {
            Command::Run(command) => command.run(),
        };
        done.unwrap_or_else(|error| {
            log::error!("{error}");
            ExitCode::FAILURE
        })
    }
}
