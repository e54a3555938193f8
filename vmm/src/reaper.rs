//! A process of its own for machines that become another user (--uid): it stays who it
//! was, waits for their end, and removes what they may not remove any more. It is confined to
//! that before it waits.

use std::io::{Read, stdin};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use rustix::thread::CapabilitySet;

use crate::config::{Confinement, Seccomp, VmName};
use crate::rundir::RunDir;
use crate::sandbox::{Role, Sandbox, Use};
use crate::sched::Group;
use crate::{Error, Result};

/// Looks whether a machine's last thread is gone: at most so many.
const LOOKS: u32 = 200;
const BETWEEN: Duration = Duration::from_millis(10);

/// What a machine leaves: the options of the hidden subcommand that does the work.
#[derive(Debug, Clone, clap::Args)]
pub struct Remains {
    /// Its name
    #[arg(long)]
    pub name: Option<VmName>,
    /// Where its control group is
    #[arg(long)]
    pub cgroup: Option<PathBuf>,
    /// What becomes of system calls for which it has no use
    #[arg(long)]
    pub seccomp: Option<Seccomp>,
}

/// The process; it sets to work when this is dropped, at the latest at this process's end.
#[derive(Debug)]
pub struct Reaper {
    _alive: Option<ChildStdin>,
}

impl Remains {
    /// Starts the process. Must come before the control group is made, or it would be in it.
    pub fn wait_for_end(&self, run_dir: &Path) -> Result<Reaper> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("reap").arg("--run-dir").arg(run_dir);
        if let Some(name) = &self.name {
            command.args(["--name", &name.to_string()]);
        }
        if let Some(cgroup) = &self.cgroup {
            command.arg("--cgroup").arg(cgroup);
        }
        if let Some(value) = self.seccomp.and_then(|seccomp| seccomp.to_possible_value()) {
            command.args(["--seccomp", value.get_name()]);
        }
        // Signals for the machine are not for it.
        let child = command
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .map_err(Error::system("start the process that removes what is left"))?;
        Ok(Reaper {
            _alive: child.stdin,
        })
    }

    /// The process's work: waits until the other end of standard input is closed, however
    /// that comes about, then removes all that the next machine has not taken over.
    pub fn reap(&self, run_dir: &RunDir) -> Result<()> {
        self.confine(run_dir)?;
        // Nothing is ever written.
        let _ = stdin().read(&mut [0]);
        for _ in 0..LOOKS {
            let name = self.name.as_ref();
            let files = name.is_none_or(|name| run_dir.tidy(name));
            let group = self.cgroup.as_deref().is_none_or(Group::tidy);
            if files && group {
                break;
            }
            thread::sleep(BETWEEN);
        }
        Ok(())
    }

    /// Gives up all that it doesn't need to remove what it is to remove.
    fn confine(&self, run_dir: &RunDir) -> Result<()> {
        let mut sandbox = Sandbox::new(&Confinement {
            seccomp: self.seccomp.unwrap_or_default(),
            ..Confinement::default()
        })?;
        sandbox.allow(run_dir.path(), Use::Change);
        // The group is not there yet.
        if let Some(above) = self.cgroup.as_deref().and_then(Path::parent) {
            sandbox.allow(above, Use::ReadAndRemoveFolders);
        }
        // The folders may be another user's: root removes its own in them all the same.
        sandbox.enter_alone(Role::Reap, CapabilitySet::DAC_OVERRIDE)
    }
}
