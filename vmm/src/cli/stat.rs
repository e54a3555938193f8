//! `vmm stat`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use serde_json::json;
use vmm::Result;
use vmm::api::client::{Answer, Client};
use vmm::config::VmName;
use vmm::observe::outside::Sight;
use vmm::observe::types::{Stat, VcpuStat};
use vmm::observe::{prometheus, share};
use vmm::rundir::RunDir;

use super::machines::tell_silent;
use super::print;

/// What `vmm stat --help` ends with.
pub const HELP: &str = "\
Examples:
  Which vCPUs wait for a CPU? Rates of each second, until Ctrl-C:
    vmm stat --watch
  One machine's counters since its start, for a program:
    vmm stat web --json
  Which disk fails, which link is full, what the console has lost? Since the start:
    vmm stat web --devices
  For Prometheus's node_exporter:
    vmm stat --prometheus > /var/lib/node_exporter/vmm.prom

Columns: RUN% and DELAY% are the time that the vCPU's thread ran, and that it waited for a
CPU though it could run, in per cent of the time since the machine's start (with --watch, of
the interval); WAIT% is the delay's share of both. STEAL% is the delay where the guest can know of it.
EXITS and what follows take root, or the machine's user where Yama lets it trace.
What the kernel or the guest does not tell is \"-\". A machine that does not answer has a row
that says so, and vmm_up 0; without --prometheus the exit status is 1 then.";

/// The options.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The machines [default: all that run]
    names: Vec<VmName>,
    /// Print again at intervals, what happened in each
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
    #[arg(require_equals = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=86400))]
    watch: Option<u32>,
    /// With --watch: end after so many intervals
    #[arg(long, requires = "watch")]
    count: Option<u64>,
    /// Print what the devices did since the start: requests, bytes, errors, losses
    #[arg(long, conflicts_with_all = ["json", "watch", "prometheus"])]
    devices: bool,
    /// Print all counters since the start as JSON; with --watch a line at each interval
    #[arg(long)]
    json: bool,
    /// Print all counters since the start in Prometheus's text format
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    prometheus: bool,
}

impl Options {
    /// Prints statistics. A machine that does not answer keeps nobody else's back.
    pub fn run(self, run_dir: &RunDir) -> Result<ExitCode> {
        let mut sight = Sight::default();
        let mut before = self.look(run_dir, &mut sight)?;
        let silent = tell_silent(&before);
        if self.prometheus {
            let (stats, silent) = apart(&before);
            return print(&prometheus::text(&stats, &silent));
        }
        if self.devices {
            return print(&devices(&apart(&before).0));
        }
        let Some(seconds) = self.watch else {
            self.print(&before, &[])?;
            return Ok(match silent {
                true => ExitCode::FAILURE,
                false => ExitCode::SUCCESS,
            });
        };
        let mut intervals = 0;
        while self.count.is_none_or(|count| intervals < count) {
            thread::sleep(Duration::from_secs(seconds.into()));
            let now = self.look(run_dir, &mut sight)?;
            self.print(&now, &before)?;
            before = now;
            intervals += 1;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Of machines that were named all must run; of the others those that do.
    fn look(&self, run_dir: &RunDir, sight: &mut Sight) -> Result<Vec<Answer<Stat>>> {
        let clients = match self.names.is_empty() {
            true => Client::all(run_dir)?,
            false => {
                let names = self.names.iter();
                names.map(|name| Client::new(run_dir, name)).collect()
            }
        };
        let answers = sight.look(Client::get_all(&clients, "/v1/stat"));
        let mut names = self.names.iter();
        match names.find(|name| answers.iter().all(|answer| answer.name != **name)) {
            Some(gone) => Err(Client::new(run_dir, gone).gone()),
            None => Ok(answers),
        }
    }

    fn print(&self, answers: &[Answer<Stat>], before: &[Answer<Stat>]) -> Result<ExitCode> {
        print(&match self.json {
            true => format!("{}\n", json!(apart(answers).0)),
            false => table(answers, before),
        })
    }
}

/// What was answered, and the names of those that have not.
fn apart(answers: &[Answer<Stat>]) -> (Vec<Stat>, Vec<String>) {
    let mut silent = Vec::new();
    let mut stats = Vec::new();
    for answer in answers {
        match &answer.said {
            Ok(stat) => stats.push(stat.clone()),
            Err(_) => silent.push(answer.name.to_string()),
        }
    }
    (stats, silent)
}

/// What devices did since their machine's start.
fn devices(stats: &[Stat]) -> String {
    let mut text = format!(
        "{:<16} {:<8} {:>10} {:>14} {:>14} {:>8} {:>8} {:>8}\n",
        "NAME", "DEVICE", "REQUESTS", "TO-GUEST", "FROM-GUEST", "ERRORS", "DROPPED", "FULL"
    );
    for stat in stats {
        for d in &stat.devices {
            text += &format!(
                "{:<16} {:<8} {:>10} {:>14} {:>14} {:>8} {:>8} {:>8}\n",
                stat.name,
                d.name,
                d.requests,
                d.to_guest_bytes,
                d.from_guest_bytes,
                d.errors,
                d.dropped,
                d.queue_full
            );
        }
    }
    text
}

/// What happened since `before`; where that lacks a machine, since its start.
fn table(answers: &[Answer<Stat>], before: &[Answer<Stat>]) -> String {
    let before: BTreeMap<u32, &Stat> = before
        .iter()
        .filter_map(|answer| answer.said.as_ref().ok())
        .map(|stat| (stat.pid, stat))
        .collect();
    let mut text = format!(
        "{:<16} {:>4} {:>7} {:>4} {:<6} {:>6} {:>6} {:>6} {:>6} {:>10} {:>10} {:>10} {:>10} {:>10}\n",
        "NAME",
        "VCPU",
        "TID",
        "CPU",
        "CLASS",
        "RUN%",
        "DELAY%",
        "WAIT%",
        "STEAL%",
        "EXITS",
        "HALTS",
        "SPINS",
        "YIELDS",
        "HITS"
    );
    for answer in answers {
        let name = answer.name.to_string();
        let Ok(stat) = &answer.said else {
            text += &format!("{name:<16} NOT ANSWERING\n");
            continue;
        };
        let old = before.get(&stat.pid);
        let time = stat
            .uptime_ns
            .saturating_sub(old.map_or(0, |old| old.uptime_ns));
        for (id, vcpu) in stat.vcpus.iter().enumerate() {
            let old = old.and_then(|old| old.vcpus.get(id));
            text += &format!("{name:<16} {id:>4} {}\n", row(vcpu, old, time));
        }
    }
    text
}

fn row(vcpu: &VcpuStat, old: Option<&VcpuStat>, time: u64) -> String {
    let since = |value: fn(&VcpuStat) -> Option<u64>| {
        let before = old.and_then(value).unwrap_or(0);
        value(vcpu).map(|now| now.saturating_sub(before))
    };
    let run = since(|v| Some(v.thread.run_ns)).unwrap_or(0);
    let delay = since(|v| Some(v.thread.delay_ns)).unwrap_or(0);
    let percent = |part: u64| format!("{:.1}", 100.0 * share(part, time.saturating_sub(part)));
    let counts = [
        since(|v| v.exits),
        since(|v| v.halts),
        since(|v| v.spin_exits),
        since(|v| v.yields.as_ref()?.attempts),
        since(|v| Some(v.yields.as_ref()?.hits.values().sum())),
    ];
    let thread = &vcpu.thread;
    let mut row = format!(
        "{:>7} {:>4} {:<6} {:>6} {:>6} {:>6.1} {:>6}",
        thread.tid,
        thread.cpu,
        thread.class,
        percent(run),
        percent(delay),
        100.0 * share(delay, run),
        since(|v| v.steal_ns).map_or("-".into(), percent)
    );
    for count in counts {
        row += &format!(" {:>10}", count.map_or("-".into(), |n| n.to_string()));
    }
    row
}
