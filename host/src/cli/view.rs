//! `vmfirst view`.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use clap::Args;
use glob::Pattern;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::warn;
use crate::read::Root;
use crate::view::{Boundaries, Count, EVERY, Machines, View, mount, ready, unmount};
use crate::{Error, Result};

/// What `vmfirst view --help` ends with.
pub const HELP: &str = "\
Examples:
  vmfirst view /var/lib/lxcfs --group '/lxc.payload.*'      in lxcfs's place, for LXC
  vmfirst view /run/view --group '/machine.slice/*'         one machine for each VM's or container's scope
  setfattr -n user.vmfirst.view -v 1 /sys/fs/cgroup/a/b     whoever is in /a/b sees /a/b's machine

Who reads DIR/proc/meminfo sees the memory of its own control group; so with cpuinfo, diskstats,
loadavg, stat, swaps, uptime, vmstat, pressure/* and DIR/sys/devices/system/cpu. Mount these files
over a container's own. A reader's machine is the outermost group around it that has the attribute
user.vmfirst.view, else the outermost that --group names, else its own; in the root group it is
the host. The service vmfirst-view keeps the mount when the program is killed or started anew.";

/// The options.
#[derive(Debug, Args)]
pub struct Options {
    /// Where to mount; a folder that is there
    dir: PathBuf,
    /// Groups that are machines, as /machine.slice/*; "*" stays within one part of the path
    #[arg(long = "group", value_name = "PATTERN", value_parser = pattern)]
    groups: Vec<Pattern>,
    /// How many CPUs a group with a limit of CPU time sees
    #[arg(long, value_enum, default_value_t)]
    cpus: Count,
}

fn pattern(text: &str) -> std::result::Result<Pattern, String> {
    if !text.starts_with('/') {
        return Err("a group's path begins with /, at cgroup v2's root".into());
    }
    Pattern::new(text).map_err(|error| error.to_string())
}

impl Options {
    /// Mounts, and answers until a signal comes or the folder is unmounted.
    pub fn run(self, root: &Root) -> Result<()> {
        let machines = Machines::new(root.clone(), Boundaries::named(self.groups), self.cpus)?;
        let machines = Arc::new(machines);
        let signals = Signals::new([SIGINT, SIGTERM]);
        let signals =
            signals.map_err(|source| Error::refused("wait for", "signals", source, ""))?;
        let view = View::new(machines.clone());
        let view = view.map_err(|source| Error::refused("wait for", "triggers", source, ""))?;
        let mounted = mount(view, &self.dir, root)?;
        thread::spawn(move || {
            loop {
                thread::sleep(EVERY);
                machines.tend();
            }
        });
        let (folder, is_kept) = (self.dir, mounted.is_kept);
        thread::spawn(move || end(signals, &folder, is_kept));
        ready();
        mounted.serve()
    }
}

/// At a signal: what systemd keeps stays mounted for the next process.
fn end(mut signals: Signals, folder: &std::path::Path, is_kept: bool) {
    if signals.forever().next().is_none() {
        return;
    }
    if !is_kept && let Err(error) = unmount(folder) {
        warn(&error.to_string());
    }
    std::process::exit(0);
}
