//! `vmfirst`: find, steer and observe the VMs of a host.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match vmfirst_host::cli::run(vmfirst_host::cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmfirst: {error}");
            ExitCode::FAILURE
        }
    }
}
