//! `vmfirst`: find, steer and observe the VMs of a host.

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use vmfirst_host::cli::{Cli, run};

/// Exit status of a command line that can't be understood, as clap has it.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_understood(&error),
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vmfirst: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Help and version as they are; an error as one line, for logs and for who reads them.
fn not_understood(error: &clap::Error) -> ExitCode {
    let is_help =
        !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if is_help {
        error.exit();
    }
    let text = error.to_string();
    let said = text.lines().take_while(|line| !line.trim().is_empty());
    let said: Vec<&str> = said.map(str::trim).collect();
    let said = said.join(" ");
    let said = said.strip_prefix("error: ").unwrap_or(&said);
    eprintln!("vmfirst: {said}; see --help");
    ExitCode::from(USAGE)
}
