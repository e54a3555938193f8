//! A process of its own for machines that become another user (--uid): it stays who it
//! was, waits for their end, and removes what they may not remove any more.

use std::io::{Read, stdin};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::config::VmName;
use crate::rundir::RunDir;
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
    pub fn reap(&self, run_dir: &RunDir) {
        // Nothing is ever written.
        let _ = stdin().read(&mut [0]);
        for _ in 0..LOOKS {
            let name = self.name.as_ref();
            let files = name.is_none_or(|name| run_dir.tidy(name).is_ok());
            let group = self.cgroup.as_deref().is_none_or(Group::tidy);
            if files && group {
                return;
            }
            thread::sleep(BETWEEN);
        }
    }
}
