//! Small VMs that do nothing but send IPIs or yield: to see which ways of sending
//! KVM remembers, what that costs, whether a storm of them breaks anything, and
//! what yields give and take.

mod counters;
mod error;
mod guest;
mod missing;
mod storm;
mod switches;
mod vm;
mod yields;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::{Parser, Subcommand};
use kvm_ioctls::Kvm;

use crate::error::Error;
use crate::guest::Program;
use crate::vm::{ALL_BUT_SELF, Config, Place, Via, Vm};

/// Send IPIs and yield between bare vCPUs. Prints one line of JSON.
///
/// Examples:
///   ipi-probe ping --via msr             one sender, one receiver, one CPU
///   ipi-probe ping --via mmio --vcpus 4  to all others, as a TLB shootdown
///   ipi-probe ping --via msr --vcpus 5 --burst  to three of five, as Linux does
///   ipi-probe stuck                      to one whose thread sleeps in the host
///   ipi-probe gap --vcpus 240            what a spin exit costs
///   ipi-probe storm --vcpus 8 --ms 500   all kinds, with resets and new settings
///   ipi-probe switches                   what the scheduler costs without yields
///   ipi-probe yields --what race --hogs 1   two yield, a third one watches
#[derive(Debug, Parser)]
#[command(version, verbatim_doc_comment)]
struct Args {
    /// First give a parameter of KVM, a tunable in /sys/kernel/directed_yield or a file in
    /// /sys/kernel/debug/sched a value, such as ipi_tracking=N, mode=transfer or
    /// features=NO_DIRECTED_YIELD; may be repeated.
    #[arg(long, global = true, value_name = "NAME=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The first vCPU sends and waits for an answer, over and over.
    Ping {
        /// How to send.
        #[arg(long)]
        via: Via,
        /// With more than 2, the IPI goes to all but the sender.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=16))]
        vcpus: u8,
        /// To all but itself and the last one, in an IPI each, as Linux sends to some.
        #[arg(long)]
        burst: bool,
        /// For how many ms.
        #[arg(long, default_value_t = 100)]
        ms: u64,
    },
    /// The first vCPU sends to one whose thread sleeps in the host for a page, and spins;
    /// two others compute on the same CPU.
    Stuck {
        /// For how many ms.
        #[arg(long, default_value_t = 400)]
        ms: u64,
    },
    /// The first vCPU sends to one that runs and never answers, and spins: cycles
    /// of a spin exit. Takes 2 CPUs.
    Gap {
        /// How many vCPUs the VM has.
        #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u8).range(2..=240))]
        vcpus: u8,
    },
    /// Two VMs, all vCPUs send all kinds of IPIs and reset each other; KVM's
    /// settings change meanwhile; the VMs come and go.
    Storm {
        /// vCPUs of each VM.
        #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(2..=8))]
        vcpus: u8,
        /// For how many ms.
        #[arg(long, default_value_t = 500)]
        ms: u64,
    },
    /// Two threads on one CPU wake each other by turns, no VM: ns of a round, which
    /// is two switches, on a scheduler that nobody yields to.
    Switches {
        /// How many rounds.
        #[arg(long, default_value_t = 20_000)]
        rounds: u64,
    },
    /// vCPUs yield to each other: what each thread gets, in ns of CPU time.
    Yields(yields::Args),
    /// Never sleeps, until it is killed.
    #[command(hide = true)]
    Hog {
        /// Where.
        cpu: usize,
    },
}

/// Where what `--set` changes is looked for.
const FOLDERS: [&str; 3] = [
    "/sys/module/kvm/parameters",
    "/sys/kernel/directed_yield",
    "/sys/kernel/debug/sched",
];

/// A fixed, edge-triggered, asserted IPI of a vector that nothing else uses.
const FIXED: u32 = 0x4051;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ipi-probe: {error}");
            ExitCode::FAILURE
        }
    }
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it is NAME=VALUE")?;
    if name.is_empty() || name.contains('/') {
        return Err(format!(
            "NAME is that of a file in {}",
            FOLDERS.join(" or ")
        ));
    }
    Ok((name.into(), value.into()))
}

fn run(args: &Args) -> Result<serde_json::Value, Error> {
    for (name, value) in &args.set {
        set(name, value)?;
    }
    let kvm = Kvm::new().map_err(|e| Error::setup("open /dev/kvm", e))?;
    match &args.command {
        Command::Switches { rounds } => switches::run(*rounds),
        Command::Ping {
            via,
            vcpus,
            burst,
            ms,
        } => ping(&kvm, *via, *vcpus, *burst, *ms),
        Command::Stuck { ms } => stuck(&kvm, *ms),
        Command::Gap { vcpus } => gap(&kvm, *vcpus),
        Command::Storm { vcpus, ms } => storm::run(&kvm, *vcpus, *ms),
        Command::Yields(args) => yields::run(&kvm, args),
        Command::Hog { cpu } => yields::hog(*cpu),
    }
}

fn set(name: &str, value: &str) -> Result<(), Error> {
    let file = FOLDERS
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|file| file.exists())
        .ok_or_else(|| Error::setup("set a parameter", format!("there is no {name}")))?;
    fs::write(file, value).map_err(|e| Error::setup("set a parameter", e))
}

fn ping(kvm: &Kvm, via: Via, vcpus: u8, burst: bool, ms: u64) -> Result<serde_json::Value, Error> {
    let config = Config {
        via,
        program: Program::Ping,
        place: Place::Shared,
        vcpus,
        icr: if vcpus > 2 && !burst {
            FIXED | ALL_BUT_SELF
        } else {
            FIXED
        },
        running: vcpus,
        burst: if burst {
            vcpus.saturating_sub(2).max(1)
        } else {
            0
        },
    };
    let vm = Vm::start(kvm, config)?;
    thread::sleep(Duration::from_millis(ms));
    let counted = counters::kvm();
    vm.stop()?;
    let result = serde_json::json!({
        "rounds": vm.word(guest::ROUNDS),
        "send_cycles": vm.word(guest::SEND_CYCLES),
        "eoi_cycles": vm.word(guest::EOI_CYCLES),
        "counters": counted,
    });
    vm.end()?;
    Ok(result)
}

fn stuck(kvm: &Kvm, ms: u64) -> Result<serde_json::Value, Error> {
    let config = Config {
        via: Via::Msr,
        program: Program::Stuck,
        place: Place::Shared,
        vcpus: 4,
        icr: FIXED,
        running: 4,
        burst: 0,
    };
    let vm = Vm::start(kvm, config)?;
    thread::sleep(Duration::from_millis(ms));
    let counted = counters::kvm();
    vm.stop()?;
    vm.end()?;
    Ok(serde_json::json!({ "counters": counted }))
}

fn gap(kvm: &Kvm, vcpus: u8) -> Result<serde_json::Value, Error> {
    let config = Config {
        via: Via::Mmio,
        program: Program::Gap,
        place: Place::Apart,
        vcpus,
        icr: FIXED,
        running: 2,
        burst: 0,
    };
    let vm = Vm::start(kvm, config)?;
    let enough = u32::try_from(guest::GAPS_MAX).unwrap_or(0);
    for _ in 0..1000 {
        if vm.word(guest::GAP_COUNT) >= enough {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    let count = u64::from(vm.word(guest::GAP_COUNT)).min(guest::GAPS_MAX);
    let mut gaps: Vec<u32> = (0..count).map(|i| vm.word(guest::GAPS + i * 4)).collect();
    gaps.sort_unstable();
    let counted = counters::kvm();
    vm.end()?;
    let middle = gaps.get(gaps.len() / 2).copied();
    Ok(serde_json::json!({ "exits": count, "median_cycles": middle, "counters": counted }))
}
