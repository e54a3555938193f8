//! `vmm run`.

use std::path::PathBuf;
use std::process::ExitCode;

use rustix::process::geteuid;
use vmm::config::{Config, ConsoleArg, RunArgs, file};
use vmm::reaper::Remains;
use vmm::resources::Resources;
use vmm::rundir::RunDir;
use vmm::sched::Group;
use vmm::{builder, run};

use super::print;

/// What `vmm run --help` ends with.
pub const HELP: &str = "\
Examples:
  A kernel of one's own, with a disk:
    vmm run --kernel bzImage --initrd rootfs.cpio --disk data.img --cpus 4 --mem 512M
  The same from a file, whose keys are the options' names, with more memory:
    vmm run --kernel bzImage --initrd rootfs.cpio --disk data.img --cpus 4 --dry-run > web.toml
    vmm run --config web.toml --mem 1G
  With a name: vmm list, stat, set, pause, resume and stop find it, and curl does:
    vmm run --config web.toml --name web
    curl --unix-socket /run/vmfirst/web.sock http://vmm/v1/info
  Latency for the guest, batch work of the host behind it; boot first of all:
    vmm run --config web.toml --vcpu-class vmf --launch-class rr:5
  Two vCPUs with CPUs of their own, in a control group that gets at most one and a half CPUs:
    vmm run --config web.toml --cpus 2 --vcpu-affinity 0=2,1=3 --cgroup web --cpu-max 150%
  A socket to the guest's programs: the second line, then \"CONNECT 52\" for its port 52:
    vmm run --config web.toml --vsock cid=3,socket=/run/web.vsock
    socat - UNIX-CONNECT:/run/web.vsock
  Confined further than by the system calls that each thread may make:
    vmm run --config web.toml --uid 65534 --gid 65534 --chroot /var/empty

SIGTERM, SIGHUP, or SIGINT once, presses the guest's power button and ends the machine when
the guest has powered off, at the latest after --stop-timeout. SIGINT a second time and
SIGQUIT end it at once. A signal that is ignored at the start (nohup) stays ignored.

Exit status: 0 the guest powered off; 1 an error on the host; 2 a wrong command line;
3 the guest asked for a reboot; 4 the guest crashed; 5 its kernel panicked;
6 ended by `vmm stop`, as the guest did not power off; 128+N the same by signal N.";

/// The options of `vmm run` that are not the machine's.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// Options from a file, TOML or (named *.json) JSON; those given here as well win
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check everything, print the resulting configuration as TOML, and start and take nothing:
    /// a machine may run with the same
    #[arg(long)]
    dry_run: bool,
    /// Print it as JSON
    #[arg(long, requires = "dry_run")]
    json: bool,
    #[command(flatten)]
    args: RunArgs,
}

impl Run {
    /// Runs the machine to its end.
    pub fn run(self, run_dir: &RunDir) -> vmm::Result<ExitCode> {
        let args = match &self.config {
            Some(path) => file::overlay(&self.args, &file::read(path)?)?,
            None => self.args,
        };
        if self.dry_run {
            let text = file::write(&args.clone().or_default(), self.json)?;
            Resources::check(&Config::try_from(args)?)?;
            return print(&text);
        }
        // First of all: disks that the machine of this name has are in use, too.
        let name = args.name.clone();
        let cgroup = args.cgroup.as_deref().map(Group::resolve).transpose()?;
        let claimed = name
            .as_ref()
            .map(|name| run_dir.claim(name, cgroup.as_deref()))
            .transpose()?;
        let remains = Remains {
            name: name.clone(),
            cgroup,
            seccomp: args.seccomp,
        };
        let leaves = args.uid.is_some() && (name.is_some() || remains.cgroup.is_some());
        let stays_root = args.stay_root.unwrap_or_default();
        let mut config = Config::try_from(args)?;
        if let (ConsoleArg::Socket(path @ None), Some(name)) = (&mut config.console, &name) {
            *path = Some(run_dir.console(name));
        }
        if config.confinement.user.is_none() && !stays_root && geteuid().is_root() {
            log::warn!(
                "vmm stays root while the guest runs: give --uid and --gid, best --chroot too; \
                 --stay-root if that is to be"
            );
        }
        let resources = Resources::open(&config)?;
        let machine = builder::build(config, resources)?;
        let _reaper = leaves
            .then(|| remains.wait_for_end(run_dir.path()))
            .transpose()?;
        let (_claim, listener) = claimed.unzip();
        Ok(run::run(machine, name.zip(listener))?.code())
    }
}
