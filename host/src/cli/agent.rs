//! `vmfirst agent`.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::{cut, json, print, warn};
use crate::agent::config::{Config, FOLDER};
use crate::agent::service::{self, Service};
use crate::model::shown;
use crate::read::Root;
use crate::{Error, Result};

/// What `vmfirst agent --help` ends with.
pub const HELP: &str = "\
Examples:
  vmfirst agent --check            is what /etc/vmfirst/*.toml declares right
  vmfirst agent --dry-run          what would be written now, and why
  systemctl enable --now vmfirst-agent
  vmfirst agent --status           how far each group's priority holds, by resource
  vmfirst priority batch.slice 7   a priority by command

A group (a slice, a VM's, a container's) has a priority from 0 (highest) to 7 (offline: it runs
in what the others leave). It comes from the group's path or name in the configuration, or
from its attribute user.vmfirst.priority; without any file vmfirst-high.slice has 0,
vmfirst.slice 3 and vmfirst-low.slice 7. What a priority means on CPUs, memory and disks is a
table that the configuration may change: docs/agent.md has it.

Each value from before is kept in /run/vmfirst/agent.json until the agent ends and puts it
back; an agent that was killed has that done by the next one, or by --restore. Each write has
a line with its reason in /var/log/vmfirst/audit.jsonl. Groups that another manager has
(kubelet's, libvirt's, those that systemd delegates) are left alone unless the configuration
names them. SIGHUP has the configuration read again.";

/// The options.
#[derive(Debug, Args)]
pub struct Options {
    /// The folder with the configuration
    #[arg(long, value_name = "FOLDER", default_value = FOLDER)]
    config: PathBuf,
    /// Look for mistakes in the configuration, and do nothing
    #[arg(long, conflicts_with_all = ["dry_run", "status", "restore"])]
    check: bool,
    /// Say what would be written now, and write nothing
    #[arg(long, conflicts_with_all = ["status", "restore"])]
    dry_run: bool,
    /// Show how far each priority holds, told by the agent that runs
    #[arg(long, conflicts_with = "restore")]
    status: bool,
    /// Put back what an agent that was killed has changed
    #[arg(long)]
    restore: bool,
    /// Print JSON
    #[arg(long, requires = "status")]
    json: bool,
}

impl Options {
    /// Runs the agent, or does what is asked for instead.
    pub fn run(self, root: &Root) -> Result<()> {
        if self.check {
            return Config::read(&self.config).map(drop);
        }
        if self.status {
            return show(&service::status(root)?, self.json);
        }
        if self.restore {
            let count = service::restore(root)?;
            return print(&format!("{count} put back\n"));
        }
        if self.dry_run {
            let service = Service::new(root.clone(), Config::read(&self.config)?)?;
            let lines = service.would_write()?;
            return print(
                &lines
                    .iter()
                    .map(|l| format!("{}\n", shown(l)))
                    .collect::<String>(),
            );
        }
        service::run(root, &self.config, warn)
    }
}

/// Prints what one that runs has told.
pub fn show(status: &Value, as_json: bool) -> Result<()> {
    print(&match as_json {
        true => format!("{}\n", json(status)?),
        false => table(status),
    })
}

/// A row for each group and resource; what holds has no reason.
fn table(status: &Value) -> String {
    let mut text = format!("{:<40} {:>4} {:<7} {}\n", "GROUP", "PRIO", "", "STATE");
    let list = |key: &str| status[key].as_array().cloned().unwrap_or_default();
    for group in list("groups") {
        for resource in ["cpu", "memory", "io", "net"] {
            let state = &group[resource];
            let word = |value: &Value| shown(value.as_str().unwrap_or_default());
            let reason = word(&state["reason"]);
            let colon = if reason.is_empty() { "" } else { ": " };
            text += &format!(
                "{:<40} {:>4} {resource:<7} {}{colon}{reason}\n",
                cut(&word(&group["group"]), 40),
                group["priority"],
                word(&state["state"]).replace('-', " "),
            );
        }
    }
    for missed in list("missed") {
        let word = |key: &str| missed[key].as_str().unwrap_or_default().to_string();
        text += &format!(
            "this host lacks {}: {}; {}\n",
            word("name"),
            word("lost"),
            word("get")
        );
    }
    for note in list("notes") {
        text += &format!("{}\n", shown(note.as_str().unwrap_or_default()));
    }
    text
}

/// What `vmfirst priority --help` ends with.
pub const PRIORITY_HELP: &str = "\
Examples:
  vmfirst priority vmfirst.slice/batch.service       what it has
  vmfirst priority vmfirst.slice/batch.service 7     offline: it runs in what others leave
  vmfirst priority vmfirst.slice/batch.service none  what its slice or the configuration says

It is the attribute user.vmfirst.priority of the group, and lasts as long as that. The agent
sees it within a second: vmfirst agent --status. A path in the configuration's [groups] goes
before it.";

/// The options of `vmfirst priority`.
#[derive(Debug, Args)]
pub struct PriorityOptions {
    /// The control group, below cgroup v2's mount point
    group: PathBuf,
    /// 0 (highest) to 7 (offline), or none
    priority: Option<String>,
}

impl PriorityOptions {
    /// Shows or changes the attribute.
    pub fn run(self) -> Result<()> {
        use crate::agent::priority::Priority;
        use crate::agent::tree::{ATTRIBUTE, attribute};
        let group = crate::act::Cgroup::named(&self.group)?;
        let path = group.path();
        if !path.join("cgroup.procs").exists() {
            return Err(Error::Usage(format!(
                "there is no control group {}",
                path.display()
            )));
        }
        let refused = |source: rustix::io::Errno| {
            let hint = "; it takes root, or a group that was delegated to this user";
            Error::refused(
                "set the priority of",
                path.display().to_string(),
                source,
                hint,
            )
        };
        match self.priority.as_deref() {
            None => {
                let found = attribute(path, ATTRIBUTE);
                print(&format!("{}\n", shown(found.as_deref().unwrap_or("none"))))
            }
            Some("none") => match rustix::fs::removexattr(path, ATTRIBUTE) {
                Err(error) if error != rustix::io::Errno::NODATA => Err(refused(error)),
                _ => Ok(()),
            },
            Some(text) => {
                let priority: Priority = text.parse().map_err(Error::Usage)?;
                let (text, flags) = (priority.to_string(), rustix::fs::XattrFlags::empty());
                rustix::fs::setxattr(path, ATTRIBUTE, text.as_bytes(), flags).map_err(refused)
            }
        }
    }
}
