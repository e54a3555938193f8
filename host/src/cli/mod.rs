//! The commands of `vmfirst`. Each has a file; what they share is here.

mod agent;
mod list;
mod nri;
pub mod prometheus;
mod set;
pub mod stat;
mod top;
mod tune;
mod view;

use std::io::Write;

use clap::{CommandFactory, Parser, Subcommand};

use crate::model::{Found, Vm, find, shown};
use crate::read::Root;
use crate::{Error, Result};

const HELP: &str = "\
Examples:
  vmfirst list                              which VMs run here, whoever launched them
  vmfirst stat --watch                      who waits for a CPU, and how much
  vmfirst set web --vcpu-slice 0.5ms        web's vCPUs run sooner, and for shorter
  vmfirst set web --core-sched vm           no stranger beside web on a core
  vmfirst tune dense                        what the profile would change on this host
  vmfirst stat --prometheus                 for a scraper
  vmfirst agent --dry-run                   what the groups' priorities would change

A VM is named by its name or by its process's id. Root sees all; others see what
is theirs. Nothing is changed by list, stat and top.";

/// Find, steer and observe the VMs of a host, whoever launched them.
#[derive(Debug, Parser)]
#[command(name = "vmfirst", version, after_help = HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the VMs of this host
    #[command(after_help = list::HELP)]
    List(list::Options),
    /// Show what VMs did: ready time, run time, halts, spins, throttling
    #[command(after_help = stat::HELP)]
    Stat(stat::Options),
    /// Change where and how a VM's threads run
    #[command(after_help = set::HELP)]
    Set(set::Options),
    /// Compare the host's knobs with a profile, apply it, take it back
    #[command(after_help = tune::HELP)]
    Tune(tune::Options),
    /// Keep groups to their priorities, 0 to 7, over CPUs, memory and disks
    #[command(after_help = agent::HELP)]
    Agent(agent::Options),
    /// Show or change the priority of a control group
    #[command(after_help = agent::PRIORITY_HELP)]
    Priority(agent::PriorityOptions),
    /// Watch VMs in a terminal, sorted
    #[command(after_help = top::HELP)]
    Top(top::Options),
    /// Show each control group its own machine in /proc and /sys
    #[command(after_help = view::HELP)]
    View(view::Options),
    /// Give pods of Kubernetes their priorities, before their containers start
    #[command(after_help = nri::HELP)]
    Nri(nri::Options),
    /// Write man pages or completions, for packages
    #[command(hide = true)]
    Generate(crate::pages::Generate),
}

/// Runs the command.
pub fn run(cli: Cli) -> Result<()> {
    let root = Root::default();
    match cli.command {
        Command::List(options) => options.run(&root),
        Command::Stat(options) => options.run(&root),
        Command::Set(options) => options.run(&root),
        Command::Tune(options) => options.run(&root),
        Command::Agent(options) => options.run(&root),
        Command::Priority(options) => options.run(),
        Command::Top(options) => options.run(&root),
        Command::View(options) => options.run(&root),
        Command::Nri(options) => options.run(&root),
        Command::Generate(options) => {
            let completions = options.run(Cli::command())?;
            print(&String::from_utf8_lossy(&completions))
        }
    }
}

/// The VMs that are asked for: all when none is named. Notes go to stderr.
fn select(root: &Root, names: &[String]) -> Result<Vec<Vm>> {
    let Found { vms, notes } = find(root);
    notes.iter().for_each(|note| warn(note));
    choose(vms, names)
}

fn choose(vms: Vec<Vm>, names: &[String]) -> Result<Vec<Vm>> {
    if names.is_empty() {
        return Ok(vms);
    }
    let mut chosen: Vec<Vm> = Vec::new();
    for name in names {
        let matches = |vm: &&Vm| vm.name == *name || vm.pid.to_string() == *name;
        let found: Vec<&Vm> = vms.iter().filter(matches).collect();
        match found[..] {
            [vm] if chosen.contains(vm) => {}
            [vm] => chosen.push(vm.clone()),
            [] => {
                return Err(Error::Usage(format!(
                    "no VM is called {}: vmfirst list shows those that run",
                    shown(name)
                )));
            }
            _ => {
                let pids: Vec<_> = found.iter().map(|vm| vm.pid.to_string()).collect();
                return Err(Error::Usage(format!(
                    "{} VMs are called {}: give a process's id instead: {}",
                    found.len(),
                    shown(name),
                    pids.join(", ")
                )));
            }
        }
    }
    Ok(chosen)
}

fn warn(note: &str) {
    eprintln!("vmfirst: {note}");
}

/// Prints; a reader that has gone is no error.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::refused("write to", "standard output", error, ""))
        }
        Err(_) => std::process::exit(0),
        Ok(()) => Ok(()),
    }
}

fn json<T: serde::Serialize>(value: &T) -> Result<String> {
    let text = serde_json::to_string(value);
    text.map_err(|error| Error::Usage(format!("cannot write JSON: {error}")))
}

/// At most `width` characters; what is cut off ends in "~".
fn cut(text: &str, width: usize) -> String {
    match text.chars().count() > width {
        true => text.chars().take(width - 1).chain(['~']).collect(),
        false => text.into(),
    }
}
