//! `vmfirst`: find, steer and observe the VMs of a host.

use std::process::ExitCode;

use clap::Parser;
use vmfirst_host::cli::{Cli, run};
use vmfirst_host::usage::not_understood;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_understood("vmfirst", error),
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmfirst: {error}");
            ExitCode::FAILURE
        }
    }
}
