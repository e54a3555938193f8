//! The `vmm` program.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use vmfirst_host::usage::not_understood;

fn main() -> ExitCode {
    match cli::Cli::try_parse() {
        Ok(cli) => cli.run(),
        Err(error) => not_understood("vmm", error),
    }
}
