//! The command line: one file a subcommand.

mod console;
mod ended;
mod machines;
mod run;
mod stat;

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use vmm::log::Format;
use vmm::reaper::Remains;
use vmm::rundir::{self, RunDir};
use vmm::{Error, Result};

/// What `vmm --help` ends with.
const HELP: &str = "\
Examples:
  vmm run --kernel bzImage --initrd rootfs.cpio --name web    its console is here; elsewhere:
  vmm list                                                    which machines run
  vmm stat --watch                                            whose vCPUs wait, spin and yield
  vmm set web --vcpu-class rr:2                               how they are scheduled
  vmm console web                                             its console, with --console socket
  vmm stop web                                                by the guest's power button

vmm COMMAND --help has more of each.";

/// Launches virtual machines on KVM.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, after_help = HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Messages on standard error as lines of JSON, with the events of a machine's life
    #[arg(long, global = true)]
    log_json: bool,
    /// Folder of the sockets of machines with a name
    #[arg(long, global = true, value_name = "DIR", default_value = rundir::DEFAULT)]
    run_dir: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a machine until it ends; its serial console is on standard input and output
    #[command(after_help = run::HELP)]
    Run(Box<run::Run>),
    /// List the machines that run under a name
    #[command(after_help = machines::LIST_HELP)]
    List(machines::List),
    /// Show what vCPUs did: run time, run delay, steal, exits, spinning, yields
    #[command(after_help = stat::HELP)]
    Stat(stat::Options),
    /// Change how a running machine's threads are scheduled
    #[command(after_help = machines::SET_HELP)]
    Set(machines::Set),
    /// Attach this terminal to a machine's console (--console socket); Ctrl-] leaves it
    #[command(after_help = console::HELP)]
    Console(console::Console),
    /// Keep a machine's vCPUs out of the guest until it is resumed
    #[command(after_help = machines::PAUSE_HELP)]
    Pause(machines::Named),
    /// Let a machine that was paused go on
    #[command(after_help = machines::PAUSE_HELP)]
    Resume(machines::Named),
    /// Have a machine's guest power off, and wait for its end
    #[command(after_help = machines::STOP_HELP)]
    Stop(machines::Stop),
    /// Wait for a machine's end and remove what it left: vmm run starts this itself
    #[command(hide = true)]
    Reap(Remains),
    /// Write man pages or completions, for packages
    #[cfg(feature = "pages")]
    #[command(hide = true)]
    Generate(vmfirst_host::pages::Generate),
}

impl Cli {
    /// Does what was asked for.
    pub fn run(self) -> ExitCode {
        vmm::log::start(match self.log_json {
            true => Format::Json,
            false => Format::Text,
        });
        let run_dir = RunDir::new(&self.run_dir);
        let done = match self.command {
            Command::Run(command) => command.run(&run_dir),
            Command::List(command) => command.run(&run_dir),
            Command::Stat(command) => command.run(&run_dir),
            Command::Set(command) => command.run(&run_dir),
            Command::Console(command) => command.run(&run_dir),
            Command::Pause(command) => command.run(&run_dir, "/v1/pause"),
            Command::Resume(command) => command.run(&run_dir, "/v1/resume"),
            Command::Stop(command) => command.run(&run_dir),
            Command::Reap(remains) => remains.reap(&run_dir).map(|()| ExitCode::SUCCESS),
            #[cfg(feature = "pages")]
            Command::Generate(pages) => generate(pages),
        };
        done.unwrap_or_else(|error| {
            log::error!("{error}");
            ExitCode::FAILURE
        })
    }
}

/// Prints a command's result. Whoever has closed standard output wants no more of it.
fn print(text: &str) -> Result<ExitCode> {
    match stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        other => other.map_err(Error::system("write to standard output"))?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(feature = "pages")]
fn generate(pages: vmfirst_host::pages::Generate) -> Result<ExitCode> {
    let completions = pages.run(<Cli as clap::CommandFactory>::command())?;
    print(&String::from_utf8_lossy(&completions))
}
