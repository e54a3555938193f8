//! How a machine's threads are to run: what options say together.

use std::path::PathBuf;

use super::args::{LAUNCH_LIMIT, RunArgs};
use super::seconds;
use crate::sched::{Change, CoreSched, Launch, Layout};
use crate::{Error, Result};

/// How a machine's threads are to run from its first instruction.
#[derive(Debug, Clone, Default)]
pub struct SchedConfig {
    /// Classes, CPUs, weight and limit.
    pub first: Change,
    /// The class while the guest starts, if it is another.
    pub launch: Option<Launch>,
    /// Who may share a core with its threads; not given: no stranger, where cores are shared.
    pub core_sched: Option<CoreSched>,
    /// A control group to make, and how it is divided.
    pub cgroup: Option<(PathBuf, Layout)>,
}

impl TryFrom<&RunArgs> for SchedConfig {
    type Error = Error;

    fn try_from(args: &RunArgs) -> Result<Self> {
        let first = args.change();
        if let Some(affinity) = &first.vcpu_affinity {
            affinity.check(args.cpus.unwrap_or_default().get().into())?;
        }
        let grouped = [
            ("--cgroup-layout", args.cgroup_layout.is_some()),
            ("--cpu-weight", args.cpu_weight.is_some()),
            ("--cpu-max", args.cpu_max.is_some()),
        ];
        match grouped.iter().find(|(_, given)| *given) {
            Some((option, _)) if args.cgroup.is_none() => {
                return Err(Error::Usage(format!("{option} needs --cgroup PATH")));
            }
            _ => {}
        }
        let started = [args.launch_until.is_some(), args.launch_limit.is_some()];
        if args.launch_class.is_none() && started.contains(&true) {
            return Err(Error::Usage(
                "--launch-until and --launch-limit need --launch-class CLASS".into(),
            ));
        }
        Ok(Self {
            core_sched: args.core_sched,
            first,
            launch: args.launch_class.map(|class| Launch {
                class,
                until: args.launch_until.clone().unwrap_or_default().to_string(),
                limit: seconds(args.launch_limit.unwrap_or(LAUNCH_LIMIT)),
            }),
            cgroup: args
                .cgroup
                .clone()
                .map(|path| (path, args.cgroup_layout.unwrap_or_default())),
        })
    }
}
