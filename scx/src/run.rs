//! `scx_vmfirst run`.

use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use clap::{Args, ValueEnum};
use signal_hook::consts::{SIGINT, SIGTERM};
use vmfirst_host::read::Root;

use crate::Error;
use crate::load::{self, Ended, Policy, Running};
use crate::machine;
use crate::record::{self, Record, Run};

/// What `scx_vmfirst run --help` ends with.
pub const HELP: &str = "\
Examples:
  scx_vmfirst run                     vCPUs first; ordinary tasks keep 5 % of each CPU
  scx_vmfirst run --mode fair         all by weight; spinning vCPUs still lend their turns
  scx_vmfirst run --fair-floor 200    ordinary tasks keep 20 %

vCPUs are found by what they do, of any VMM. Ctrl-C, or the program's death however it comes,
puts all threads back under the kernel's own scheduler; VMs go on.

cpu.weight and cpu.idle of control groups count; cpu.max and uclamp do not. Real-time and
deadline threads stay where they are, above all others.";

/// How often the kernel is asked whether it has ended the scheduler.
const LOOK: Duration = Duration::from_millis(100);

/// Whom the scheduler prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// vCPUs before ordinary tasks, equal shares for VMs
    VmFirst,
    /// Everybody by weight, as under the kernel's own scheduler
    Fair,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::VmFirst => "vm-first",
            Self::Fair => "fair",
        }
    }
}

/// The options.
#[derive(Debug, Args)]
pub struct Options {
    /// Whom to prefer
    #[arg(long, value_enum, default_value = "vm-first")]
    mode: Mode,
    /// Length of a turn in us; the kernel rounds it up to its ticks
    #[arg(long, value_name = "US", default_value = "3000")]
    #[arg(value_parser = clap::value_parser!(u32).range(100..=100_000))]
    slice_us: u32,
    /// How far ahead of others a vCPU may get by turns that it is lent, in us
    #[arg(long, value_name = "US", default_value = "3000")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=100_000))]
    debt_us: u32,
    /// What ordinary tasks keep of each CPU beside vCPUs, in thousandths
    #[arg(long, value_name = "PER_MILLE", default_value = "50")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1000))]
    fair_floor: u16,
    /// What offline tasks (SCHED_IDLE, SCHED_BATCH, groups with cpu.idle) keep, in thousandths
    #[arg(long, value_name = "PER_MILLE", default_value = "10")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1000))]
    offline_floor: u16,
    /// A yield only ends the turn: nobody in particular gets it
    #[arg(long)]
    no_lend: bool,
    /// Don't prefer the vCPU that has to answer the yielder's IPI
    #[arg(long)]
    no_receivers: bool,
    /// Take KVM's choice where no receiver is known
    #[arg(long)]
    no_ranks: bool,
    /// Load on a kernel that is known to be bad
    #[arg(long)]
    force: bool,
    /// Show what libbpf and the kernel's verifier say
    #[arg(long)]
    debug: bool,
}

impl Options {
    /// Runs until it is told to stop, or the kernel ends it.
    pub fn run(&self, root: &Root) -> Result<(), Error> {
        machine::check(root, self.force)?;
        let mut record = Record::take(root)?;
        let stop = stopped_by_signals()?;
        let pid = std::process::id();
        let why = self.watch(root, &mut record, &stop);
        let text = match &why {
            Ok(()) => "it was stopped".to_string(),
            Err(error) => error.to_string(),
        };
        record.end(pid, &text)?;
        why
    }

    /// Starts it, and anew when CPUs come or go.
    fn watch(&self, root: &Root, record: &mut Record, stop: &AtomicBool) -> Result<(), Error> {
        loop {
            let caches = machine::caches(root)?;
            let missing = machine::missing_hooks(root);
            let mut objects = [MaybeUninit::uninit(), MaybeUninit::uninit()];
            let policy = self.policy();
            let running = load::start(&mut objects, &policy, &caches, &missing, self.debug)?;
            self.say(root, &running);
            record.begin(&Run {
                pid: std::process::id(),
                since: record::now(),
                kernel: machine::release(root),
                mode: self.mode.name().into(),
                lost: running.lost.iter().map(|lost| lost.to_string()).collect(),
            })?;
            match until_the_end(&running, stop) {
                None => return Ok(()),
                Some(ended) if ended.restart => say(&format!("starting anew: {}", ended.why)),
                Some(ended) => return Err(Error::Ended(ended.why)),
            }
        }
    }

    fn policy(&self) -> Policy {
        Policy {
            vm_first: self.mode == Mode::VmFirst,
            lend: !self.no_lend,
            receivers: !self.no_receivers,
            ranks: !self.no_ranks,
            slice: Duration::from_micros(self.slice_us.into()),
            debt: Duration::from_micros(self.debt_us.into()),
            fair_floor: self.fair_floor,
            offline_floor: self.offline_floor,
        }
    }

    /// Says that it runs, and what is not as it was under fair.
    fn say(&self, root: &Root, running: &Running) {
        let (mode, release) = (self.mode.name(), machine::release(root));
        let known = match machine::tried(&release) {
            Some(_) => "",
            None => ", which was not tried",
        };
        say(&format!("running, mode {mode}, on kernel {release}{known}"));
        for lost in &running.lost {
            say(&format!("lost on this kernel: {lost}"));
        }
        let limited = match machine::limited_groups(root) {
            0 => String::new(),
            many => format!("; {many} control groups have a cpu.max, which does not hold now"),
        };
        say(&format!(
            "not enforced: cpu.max of control groups, uclamp{limited}"
        ));
    }
}

fn say(text: &str) {
    eprintln!("scx_vmfirst: {text}");
}

fn stopped_by_signals() -> Result<Arc<AtomicBool>, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(|source| Error::Io {
            what: "wait for signals".into(),
            source,
        })?;
    }
    Ok(stop)
}

/// Why the kernel ended it; none when it is told to stop.
fn until_the_end(running: &Running, stop: &AtomicBool) -> Option<Ended> {
    while !stop.load(Ordering::Relaxed) {
        if let Some(ended) = running.ended() {
            return Some(ended);
        }
        sleep(LOOK);
    }
    None
}
