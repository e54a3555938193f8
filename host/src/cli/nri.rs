//! `vmfirst nri`.

use std::path::PathBuf;

use clap::Args;

use super::{agent, print, warn};
use crate::Result;
use crate::agent::config::{Config, FOLDER};
use crate::nri::service::{self, SOCKET};
use crate::read::Root;

/// What `vmfirst nri --help` ends with.
pub const HELP: &str = "\
Examples:
  systemctl enable --now vmfirst-nri
  vmfirst nri --status             how far each pod's priority holds, by resource
  vmfirst nri --keep-offline       no pod of class BestEffort asks for more
  kubectl annotate pod NAME ...    before it is made: vmfirst.io/priority: \"7\"

A pod has its priority, 0 (highest) to 7 (offline), before its first container starts: the one
of its annotation vmfirst.io/priority, else by kubelet's class: Guaranteed 0, Burstable 3,
BestEffort 7. What a priority means is vmfirst agent's table, but for CPU weights, which are
kubelet's. A pod with a value that is none doesn't start, and its events say why. A running
pod's priority is changed by vmfirst priority GROUP N. With the annotation vmfirst.io/view,
\"container\" or \"pod\", a pod's containers see their own or their pod's machine in /proc: that takes
vmfirst-view.

The container runtime must have NRI enabled (containerd 1.7, CRI-O 1.26); without it, groups
are watched, and annotations are not seen. All values are put back at the end.";

/// The options.
#[derive(Debug, Args)]
pub struct Options {
    /// The container runtime's socket for plugins
    #[arg(long, value_name = "SOCKET", default_value = SOCKET)]
    socket: PathBuf,
    /// Where this plugin is among others, 0 to 99: who is asked later can overrule
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u8).range(..100))]
    index: u8,
    /// The folder with the configuration, which is vmfirst agent's
    #[arg(long, value_name = "FOLDER", default_value = FOLDER)]
    config: PathBuf,
    /// Where vmfirst view is mounted
    #[arg(long, value_name = "FOLDER", default_value = "/var/lib/lxcfs")]
    view: PathBuf,
    /// A pod that is offline stays so, whatever it or an operator asks for
    #[arg(long)]
    keep_offline: bool,
    /// Look for mistakes in the configuration, and do nothing
    #[arg(long, conflicts_with_all = ["status", "restore"])]
    check: bool,
    /// Show how far each pod's priority holds, told by the one that runs
    #[arg(long, conflicts_with = "restore")]
    status: bool,
    /// Put back what one that was killed has changed
    #[arg(long)]
    restore: bool,
    /// Print JSON
    #[arg(long, requires = "status")]
    json: bool,
}

impl Options {
    /// Runs the plugin, or does what is asked for instead.
    pub fn run(self, root: &Root) -> Result<()> {
        if self.check {
            return Config::read(&self.config).map(drop);
        }
        if self.status {
            return agent::show(&service::status(root)?, self.json);
        }
        let options = service::Options {
            socket: self.socket,
            index: self.index,
            config: self.config,
            view: self.view,
            keep_offline: self.keep_offline,
        };
        if self.restore {
            let count = service::restore(root, options)?;
            return print(&format!("{count} put back\n"));
        }
        service::run(root, options, warn)
    }
}
