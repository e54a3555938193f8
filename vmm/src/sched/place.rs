//! All of a machine's scheduling, in a fixed order: core-scheduling cookie, clamps, group,
//! CPUs, class, slice. Each is read back.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use vmfirst_host::act::cookie::{self, Scope};
use vmfirst_host::steer::Wishes;

use super::{Affinity, Class, CpuMax, CpuWeight, Group, Slice, Tid, Uclamp};
use crate::{Error, Result};

/// The threads of a machine that runs.
#[derive(Debug, Clone, Default)]
pub struct Threads {
    /// The vCPUs', in order.
    pub vcpus: Vec<Tid>,
    /// What serves the devices.
    pub io: Tid,
    /// The first thread: it waits for signals and for the end.
    pub main: Tid,
    /// What answers the API, if there is one.
    pub api: Option<Tid>,
}

impl Threads {
    /// All that run no vCPU.
    pub fn helpers(&self) -> impl Iterator<Item = Tid> {
        [self.io, self.main].into_iter().chain(self.api)
    }

    /// All.
    pub fn all(&self) -> impl Iterator<Item = Tid> {
        self.vcpus.iter().copied().chain(self.helpers())
    }
}

/// The class of vCPUs while the guest starts, and when that is over.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The class.
    pub class: Class,
    /// What the guest prints on its console when it has started.
    pub until: String,
    /// When it is over in any case.
    pub limit: Duration,
}

/// Who may run beside the machine's threads on a core's other hardware threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CoreSched {
    /// Anybody
    Off,
    /// Only threads of the same machine
    Vm,
    /// A vCPU's core is the vCPU's alone
    Vcpu,
}

impl CoreSched {
    /// Gives the threads their cookies.
    fn give(self, threads: &Threads) -> Result<(), vmfirst_host::Error> {
        if self == Self::Off {
            return Ok(());
        }
        cookie::create(threads.main, Scope::Process)?;
        if self == Self::Vcpu {
            let mut vcpus = threads.vcpus.iter();
            vcpus.try_for_each(|&tid| cookie::create(tid, Scope::Thread))?;
        }
        Ok(())
    }
}

/// Where the kernel says whether cores have several hardware threads that are used.
const SMT_ACTIVE: &str = "/sys/devices/system/cpu/smt/active";

/// Gives the threads their cookies. What was asked for must be so; the default is that no
/// stranger shares a core, as far as this kernel can see to that.
fn isolate(threads: &Threads, asked: Option<CoreSched>) -> Result<()> {
    if let Some(asked) = asked {
        return Ok(asked.give(threads)?);
    }
    let smt = std::fs::read_to_string(SMT_ACTIVE).unwrap_or_default();
    match smt.trim() == "1" {
        true => match CoreSched::Vm.give(threads) {
            Err(error) if error.is_lacking() => {
                log::warn!(
                    "strangers may share a core with the guest: {error}; --core-sched off \
                     accepts that"
                );
                Ok(())
            }
            other => Ok(other?),
        },
        false => Ok(()),
    }
}

/// What a machine is given at its start, and what may be changed from outside while it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Change {
    /// Class of the vCPUs' threads: fair, batch, idle, vmf, bt, or rr and fifo, also with a
    /// priority as rr:PRIORITY. A guest in rr or fifo can take 95 % of each of its CPUs from the
    /// host's own tasks
    #[arg(long, value_name = "CLASS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu_class: Option<Class>,
    /// Refuse where the kernel lacks a class, instead of a warning and fair
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(value_name = "BOOL", hide_possible_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu_class_strict: Option<bool>,
    /// CPUs of some of the vCPUs, as 0=0-3,1=4
    #[arg(long, value_name = "VCPU=CPUS,...")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu_affinity: Option<Affinity>,
    /// Class of the thread that serves the devices
    #[arg(long, value_name = "CLASS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub helper_class: Option<Class>,
    /// How long a vCPU of a fair class runs before others have their turn, as 3ms: 100us to
    /// 100ms, or default. A short one has its turn sooner
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu_slice: Option<Slice>,
    /// What the scheduler believes the vCPUs to need of a CPU, least and most, of 1024
    #[arg(long, value_name = "MIN:MAX")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu_uclamp: Option<Uclamp>,
    /// The control group's share of the CPU against its neighbours, 1 to 10000
    #[arg(long, value_name = "WEIGHT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<CpuWeight>,
    /// The most CPU time of the control group: max, or 150% for one and a half CPUs
    #[arg(long, value_name = "LIMIT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_max: Option<CpuMax>,
}

/// How a machine's threads are to run.
#[derive(Debug, Default)]
pub struct Placement {
    threads: Threads,
    group: Option<Group>,
    /// The vCPUs' class once the guest has started.
    class: Class,
    /// Whether a class that the kernel lacks is an error.
    strict: bool,
    /// The vCPUs' class while the guest starts.
    launching: Option<Class>,
    /// The vCPUs' slice, where their class has slices.
    slice: Option<Slice>,
    /// Classes that the kernel lacks, of which the user has been warned.
    missing: Vec<Class>,
}

impl Placement {
    /// For a machine whose threads will be in `group`.
    pub fn new(group: Option<Group>) -> Self {
        Self {
            group,
            ..Self::default()
        }
    }

    /// Sets everything before the guest's first instruction.
    pub fn begin(
        &mut self,
        threads: Threads,
        first: &Change,
        launch: Option<&Launch>,
        core_sched: Option<CoreSched>,
    ) -> Result<()> {
        self.threads = threads;
        isolate(&self.threads, core_sched)?;
        self.strict = first.vcpu_class_strict.unwrap_or_default();
        if let Some(group) = &self.group {
            group.divide(&self.threads)?;
        }
        self.first(first)?;
        if let Some(launch) = launch {
            let given = give(launch.class, &self.threads.vcpus, self.strict)?;
            self.warn(launch.class, given);
            self.launching = Some(given);
        }
        Ok(())
    }

    /// The guest has started: its vCPUs get their class, those that have not been given
    /// another from outside meanwhile. Where they may not have it any more they get fair: never
    /// does the launch class stay.
    pub fn started(&mut self) -> Result<()> {
        let Some(launch) = self.launching.take() else {
            return Ok(());
        };
        let launch = launch.to_string();
        let has_it = |tid: &Tid| Class::of(*tid).is_ok_and(|class| class == launch);
        let vcpus = self.threads.vcpus.iter().copied().filter(has_it);
        let vcpus: Vec<Tid> = vcpus.collect();
        if let Err(error) = give(self.class, &vcpus, self.strict) {
            log::error!("{error}; the vCPUs run as fair");
            self.class = give(Class::Fair, &vcpus, true)?;
        }
        match self.slice.filter(|_| has_slices(self.class)) {
            Some(slice) => Ok(vcpus.iter().try_for_each(|&tid| slice.give(tid))?),
            None => Ok(()),
        }
    }

    /// Whether the guest starts still, in a class of its own.
    pub fn launching(&self) -> bool {
        self.launching.is_some()
    }

    /// Clamps, group, CPUs, classes, slice.
    fn first(&mut self, first: &Change) -> Result<()> {
        let vcpus = &self.threads.vcpus;
        if let Some(clamps) = first.vcpu_uclamp {
            vcpus.iter().try_for_each(|&tid| clamps.give(tid))?;
        }
        if let Some(group) = &self.group {
            first.cpu_weight.map_or(Ok(()), |w| group.set_weight(w))?;
            first.cpu_max.map_or(Ok(()), |max| group.set_max(max))?;
        }
        if let Some(affinity) = &first.vcpu_affinity {
            affinity.give(vcpus)?;
        }
        if let Some(class) = first.helper_class {
            let given = give(class, &[self.threads.io], self.strict)?;
            self.warn(class, given);
        }
        if let Some(class) = first.vcpu_class {
            self.class = give(class, &self.threads.vcpus, self.strict)?;
            self.warn(class, self.class);
        }
        self.slice = first.vcpu_slice;
        let mut vcpus = self.threads.vcpus.iter();
        match self.slice {
            Some(slice) => Ok(vcpus.try_for_each(|&tid| slice.give(tid))?),
            None => Ok(()),
        }
    }

    /// Says once that threads have not got the class that was asked for.
    fn warn(&mut self, asked: Class, given: Class) {
        if given == asked || self.missing.contains(&asked) {
            return;
        }
        self.missing.push(asked);
        log::warn!(
            "this kernel has no scheduling class {asked}: threads run as {given}; \
             --vcpu-class-strict would refuse"
        );
    }

    /// The control group, if the machine has one of its own.
    pub fn group(&self) -> Option<&Group> {
        self.group.as_ref()
    }
}

impl Change {
    /// The same for any VM's threads.
    pub fn wishes(&self) -> Wishes {
        Wishes {
            vcpu_class: self.vcpu_class,
            io_class: self.helper_class,
            vcpu_slice: self.vcpu_slice,
            vcpu_uclamp: self.vcpu_uclamp,
            vcpu_affinity: self.vcpu_affinity.clone(),
            cpu_weight: self.cpu_weight,
            cpu_max: self.cpu_max,
            ..Wishes::default()
        }
    }
}

/// Gives threads a class. Where the kernel lacks it they get fair, or with `strict` it is
/// an error. Returns the class that they have then.
fn give(class: Class, threads: &[Tid], strict: bool) -> Result<Class> {
    match threads.iter().try_for_each(|&tid| class.give(tid)) {
        Err(error) if error.is_lacking() && !strict => {
            threads.iter().try_for_each(|&tid| Class::Fair.give(tid))?;
            Ok(Class::Fair)
        }
        Err(error) if error.is_lacking() => Err(Error::Refused(format!(
            "{error}, or leave --vcpu-class-strict away to run as fair"
        ))),
        given => Ok(given.map(|()| class)?),
    }
}

fn has_slices(class: Class) -> bool {
    matches!(class, Class::Fair | Class::Batch | Class::Idle)
}
